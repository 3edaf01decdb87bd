"""Losses and their gradients, computed in float64 and rounded once."""

import math
from typing import NamedTuple

import numpy as np

from npbn.engines import current
from npbn.errors import DataError, DtypeError, ShapeError
from npbn.functional.checks import float_array, same_dtype, same_shape

REDUCTIONS = ("mean", "sum", "none")


class CrossEntropyCache(NamedTuple):
    """What :func:`cross_entropy_backward` needs of the forward pass, of M terms.

    Attributes
    ----------
    target : ndarray, shape (M,), int64
    ignore_index : int
    class_weight : ndarray, shape (C,), float64
    label_smoothing : float
    term_weight : ndarray, shape (M,), float64
        weight[target], 0 where the target is ignored.
    probabilities : ndarray, shape (M, C), float64
        softmax of the logits, the terms of all leading and trailing axes as rows.
    reduction : str
    total_weight : float
        Σ term_weight.
    logits_shape : tuple of int
    dtype : numpy.dtype
    """

    target: np.ndarray
    ignore_index: int
    class_weight: np.ndarray
    label_smoothing: float
    term_weight: np.ndarray
    probabilities: np.ndarray
    reduction: str
    total_weight: float
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
    classes = logits.shape[_class_axis(logits.ndim)]
    class_weight = np.ones(classes) if weight is None else weight.astype(np.float64)
    arguments = (
        target.reshape(-1).astype(np.int64),
        int(ignore_index),
        class_weight,
        float(label_smoothing),
    )
    batch = np.ascontiguousarray(logits, _work_dtype(logits.dtype))
    batch = batch.reshape(_as_batch(logits.shape))
    losses, loss, *kept, total_weight = current().cross_entropy_forward(batch, *arguments)
    cache = CrossEntropyCache(
        *arguments, *kept, reduction, total_weight, logits.shape, logits.dtype
    )
    if reduction == "none":
        return losses.reshape(target.shape).astype(logits.dtype), cache
    if reduction == "mean":  # of no weight at all: NaN, where smoothing would make it infinite
        loss = loss / total_weight if total_weight else math.nan
    return loss, cache


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
    *arguments, reduction, total_weight, shape, dtype = cache
    if reduction == "none":
        factor = grad_output.reshape(-1).astype(np.float64)
    else:
        factor = np.array([1 / (total_weight or math.nan) if reduction == "mean" else 1.0])
    grad = np.empty(_as_batch(shape), _work_dtype(dtype))
    current().cross_entropy_backward(factor, *arguments, grad)
    return grad.reshape(shape).astype(dtype, copy=False)


def _class_axis(ndim: int) -> int:
    return 0 if ndim == 1 else 1


def _as_batch(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape (N, C, P) of logits of shape (C,) or (N, C, d1, ...)."""
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], math.prod(shape[2:])


def _work_dtype(dtype: np.dtype) -> np.dtype:
    """Return what an engine computes in: float16, which it has not, would be rounded twice."""
    return np.dtype(np.float64) if dtype == np.float16 else dtype


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
    class_axis = _class_axis(logits.ndim)
    classes = logits.shape[class_axis]
    if classes == 0:
        raise ShapeError(f"{who}: expected at least one class, got logits of shape {logits.shape}")
    if target.dtype.kind not in "iu":
        raise DtypeError(f"{who}: expected integer class indices as target, got {target.dtype}")
    same_shape(who, target, logits.shape[:class_axis] + logits.shape[class_axis + 1 :], "target")
    wrong = target.astype(np.uint64) >= classes  # a negative one becomes a very large one
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
