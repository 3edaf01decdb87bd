"""Losses and their gradients, computed in float64 and rounded once."""

from typing import NamedTuple

import numpy as np

from npbn.errors import DataError, DtypeError, ShapeError
from npbn.functional.checks import float_array, same_dtype, same_shape

REDUCTIONS = ("mean", "sum", "none")


class CrossEntropyCache(NamedTuple):
    """What :func:`cross_entropy_backward` needs of the forward pass.

    Attributes
    ----------
    probabilities : ndarray, shape (C, M), float64
        softmax of the logits, the M terms of all leading and trailing axes as columns: long
        loops, where rows of C classes would be short ones.
    target : ndarray, shape (M,), int64
        Class of each term; 0 where it is ignored.
    term_weight : ndarray, shape (M,), float64
        weight[target], 0 where the target is ignored.
    counted : ndarray, shape (M,), bool
        Whether the term counts, that is, its target is not `ignore_index`.
    class_weight : ndarray, shape (C,), float64
    label_smoothing : float
    reduction : str
    logits_shape : tuple of int
    dtype : numpy.dtype
    """

    probabilities: np.ndarray
    target: np.ndarray
    term_weight: np.ndarray
    counted: np.ndarray
    class_weight: np.ndarray
    label_smoothing: float
    reduction: str
    logits_shape: tuple[int, ...]
    dtype: np.dtype


@np.errstate(all="ignore")
def cross_entropy_forward(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[float | np.ndarray, CrossEntropyCache]:
    """Return the cross-entropy of softmax(logits) against class indices, and the cache.

    With log p = logits − log Σ exp(logits), taken after subtracting the largest logit,
    w the class weights and s the label smoothing [1]_, a term with target t is::

        −(1 − s) · w[t] · log p[t]  −  s / C · Σ_c w[c] · log p[c]

    ``reduction='mean'`` divides the sum of the terms by the sum of their w[t].

    Parameters
    ----------
    logits : ndarray, shape (C,), (N, C) or (N, C, d1, ...), float16, float32 or float64
    target : ndarray of integers, shape (), (N,) or (N, d1, ...)
    weight : ndarray, shape (C,), or None
    ignore_index : int
        Terms with this target count for nothing.
    reduction : {'mean', 'sum', 'none'}
    label_smoothing : float in [0, 1]

    Returns
    -------
    loss : float, or ndarray of target's shape and logits' dtype with ``reduction='none'``
        NaN for the mean of no terms, as in torch.
    cache : CrossEntropyCache

    Notes
    -----
    Error bound of a term: eps64 · (R + C + 4) · its weight, with eps64 of float64, R the range of
    its logits and C the number of classes. Derivation, in units of eps64 / 2: subtracting the
    largest logit loses R (so does exp of it), the sum over C classes C, log, exp and the rest
    less than 8 + log C, and the last difference R. ``reduction='none'`` then rounds to the
    logits' dtype. A gradient loses eps64 · (R + C + 4) of the terms above, and is rounded.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
       2015, arXiv:1512.00567, section 7.
    """
    by_class = logits if logits.ndim == 1 else logits.swapaxes(0, 1)
    classes = len(by_class)
    terms = by_class.reshape(classes, target.size).astype(np.float64, order="C")
    index = target.reshape(-1).astype(np.int64)
    counted = index != ignore_index
    some_ignored = np.count_nonzero(counted) < counted.size
    if some_ignored:
        index[~counted] = 0
    class_weight = np.ones(classes) if weight is None else weight.astype(np.float64)
    term_weight = counted * (1.0 if weight is None else class_weight[index])

    shifted = terms - np.maximum.reduce(terms, axis=0)
    exponentials = np.exp(shifted)
    total = np.add.reduce(exponentials, axis=0)
    log_total = np.log(total)
    losses = log_total - shifted[index, np.arange(len(index))]
    losses *= term_weight
    if label_smoothing:
        uniform = class_weight @ (log_total - shifted) / classes
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if some_ignored:  # also where an ignored term is NaN or infinite
        losses = np.where(counted, losses, 0.0)

    cache = CrossEntropyCache(
        exponentials / total,
        index,
        term_weight,
        counted,
        class_weight,
        label_smoothing,
        reduction,
        logits.shape,
        logits.dtype,
    )
    if reduction == "none":
        return losses.reshape(target.shape).astype(logits.dtype), cache
    loss, total_weight = np.add.reduce(losses), np.add.reduce(term_weight)
    if reduction == "mean":  # of no weight at all: NaN, where smoothing would make it infinite
        loss = loss / total_weight if total_weight else np.nan
    return float(loss), cache


@np.errstate(all="ignore")
def cross_entropy_backward(
    cache: CrossEntropyCache, grad_output: np.ndarray | None = None
) -> np.ndarray:
    """Return the gradient of the loss with respect to the logits.

    A term with target t contributes, before the reduction, to logit j::

        (1 − s) · w[t] · (p[j] − [j = t])  +  s / C · (p[j] · Σ_c w[c] − w[j])

    Parameters
    ----------
    cache : CrossEntropyCache
    grad_output : ndarray of target's shape, or None
        The gradient of each term; for ``reduction='none'`` only.

    Returns
    -------
    ndarray, shape and dtype of the logits
        Zero wherever the target is ignored.
    """
    p, smoothing, w = cache.probabilities, cache.label_smoothing, cache.class_weight
    classes, count = p.shape
    scaled = (1 - smoothing) * cache.term_weight
    factor = 1.0
    if cache.reduction == "mean":
        factor = 1 / (np.add.reduce(cache.term_weight) or np.nan)
    elif cache.reduction == "none":
        factor = grad_output.reshape(-1).astype(np.float64)
    scaled *= factor
    grad = p * scaled
    grad[cache.target, np.arange(count)] -= scaled
    if smoothing:
        grad += factor * (smoothing / classes * (p * w.sum() - w[:, None]))
    if np.count_nonzero(cache.counted) < count:
        grad = np.where(cache.counted, grad, 0.0)
    if len(cache.logits_shape) == 1:
        return grad.reshape(classes).astype(cache.dtype)
    leading, _, *trailing = cache.logits_shape
    grad = grad.reshape(classes, leading, *trailing).swapaxes(0, 1)
    return grad.astype(cache.dtype, order="C")


def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> float | np.ndarray:
    """Return the cross-entropy loss; see :func:`cross_entropy_forward`.

    Raises
    ------
    ShapeError, DtypeError
    DataError
        If a target is neither a class nor `ignore_index`.
    ValueError
        If `reduction` or `label_smoothing` is not one of those described.

    Examples
    --------
    >>> import numpy as np
    >>> cross_entropy(np.array([[1e4, 0.0], [0.0, 0.0]]), np.array([0, 1]), reduction="none")
    array([0.        , 0.69314718])
    """
    check_loss_options("cross_entropy", reduction, label_smoothing)
    logits, target, weight = check_cross_entropy(
        "cross_entropy", logits, target, weight, ignore_index
    )
    return cross_entropy_forward(logits, target, weight, ignore_index, reduction, label_smoothing)[
        0
    ]


def check_loss_options(who: str, reduction: str, label_smoothing: float = 0.0) -> None:
    """Raise ValueError unless the options of a loss are among those described."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{who}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{who}: expected label_smoothing in [0, 1], got {label_smoothing}")


def check_cross_entropy(
    who: str,
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None,
    ignore_index: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the three as arrays if they fit together, else raise; `who` is for the message."""
    logits, target = float_array(who, logits, "logits"), np.asarray(target)
    if logits.ndim == 0:
        raise ShapeError(f"{who}: expected logits of shape (C,) or (N, C, ...), got ()")
    class_axis = 0 if logits.ndim == 1 else 1
    classes = logits.shape[class_axis]
    if classes == 0:
        raise ShapeError(f"{who}: expected at least one class, got logits of shape {logits.shape}")
    if target.dtype.kind not in "iu":
        raise DtypeError(f"{who}: expected integer class indices as target, got {target.dtype}")
    same_shape(who, target, logits.shape[:class_axis] + logits.shape[class_axis + 1 :], "target")
    wrong = (target < 0) | (target >= classes)
    if np.count_nonzero(wrong) and (wrong := wrong & (target != ignore_index)).any():
        raise DataError(
            f"{who}: expected targets from 0 to {classes - 1} (or ignore_index {ignore_index}), "
            f"got {target[wrong].flat[0]}"
        )
    if weight is not None:
        weight = float_array(who, weight, "weight")
        same_shape(who, weight, (classes,), "weight")
    return logits, target, weight


class MSECache(NamedTuple):
    """What :func:`mse_backward` needs: input − target in float64, and how it was reduced."""

    difference: np.ndarray
    reduction: str
    dtype: np.dtype


@np.errstate(all="ignore")
def mse_forward(
    x: np.ndarray, target: np.ndarray, reduction: str = "mean"
) -> tuple[float | np.ndarray, MSECache]:
    """Return the squared error (x − target)², reduced, and the cache.

    Parameters
    ----------
    x, target : ndarray of one shape and float dtype
    reduction : {'mean', 'sum', 'none'}
        The mean is over all elements.

    Returns
    -------
    loss : float, or ndarray of x's shape and dtype with ``reduction='none'``
    cache : MSECache

    Notes
    -----
    Error bound: (n + 4) eps64 / 2 · loss for the sum or mean of n terms, all of one sign; each
    term and each gradient within 2 eps64 before it is rounded to x's dtype.
    """
    difference = np.subtract(x, target, dtype=np.float64)
    squares = np.square(difference)
    cache = MSECache(difference, reduction, x.dtype)
    if reduction == "none":
        return np.asarray(squares, x.dtype), cache
    total = squares.sum()
    return float(total / squares.size if reduction == "mean" else total), cache


@np.errstate(all="ignore")
def mse_backward(cache: MSECache, grad_output: np.ndarray | None = None) -> np.ndarray:
    """Return the gradient 2 (x − target) · grad_output, divided by the size for the mean.

    `grad_output`, of x's shape, is for ``reduction='none'`` only.
    """
    grad = 2 * cache.difference
    if cache.reduction == "mean":
        grad /= max(grad.size, 1)
    elif cache.reduction == "none":
        grad *= grad_output
    return np.asarray(grad, cache.dtype)


def mse_loss(x: np.ndarray, target: np.ndarray, reduction: str = "mean") -> float | np.ndarray:
    """Return the squared error, reduced; see :func:`mse_forward`.

    Raises
    ------
    ShapeError, DtypeError
        If the two differ in shape (nothing is broadcast) or dtype.
    ValueError
        If `reduction` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0
    """
    check_loss_options("mse_loss", reduction)
    return mse_forward(*check_mse("mse_loss", x, target), reduction)[0]


def check_mse(who: str, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays if they have one shape and dtype, else raise."""
    x, target = float_array(who, x), float_array(who, target, "target")
    same_shape(who, target, x.shape, "target")
    same_dtype(who, target, x.dtype, "target")
    return x, target
