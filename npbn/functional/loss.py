"""Cross-entropy and its gradient, computed in float64 and rounded once; options of losses."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.arguments import check_integer, check_number
from npbn.engines import current
from npbn.errors import DataError, DtypeError, ShapeError
from npbn.functional.checks import float_array, same_shape

REDUCTIONS = ("mean", "sum", "none")


class CrossEntropyCache(NamedTuple):
    """What :func:`cross_entropy_backward` needs of the forward pass, for M terms.

    Parameters
    ----------
    target : ndarray, shape (M,), int64
        Class indices.
    ignore_index : int
        The argument.
    class_weight : ndarray, shape (C,), float64
        Weight of each class.
    label_smoothing : float
        The argument.
    term_weight : ndarray, shape (M,), float64
        The class weight of each target, 0 where it is ignored.
    probabilities : ndarray, shape (M, C), float64
        Softmax of the logits, a row for each term.
    reduction : {'mean', 'sum', 'none'}
        The argument.
    total_weight : float
        Σ term_weight.
    logits_shape : tuple of int
        Shape of the logits.
    dtype : numpy.dtype
        That of the logits.
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

    With log p = logits − log Σ exp(logits), computed after subtracting the largest logit, w the
    class weights and s the label smoothing [1]_, the term for target t is::

        −(1 − s) · w[t] · log p[t]  −  s / C · Σ_c w[c] · log p[c]

    Parameters
    ----------
    logits : ndarray, shape (C,), (N, C) or (N, C, d1, ...), float16, float32 or float64
        Scores of the C classes.
    target : ndarray of integers, shape (), (N,) or (N, d1, ...)
        Class indices.
    weight : ndarray, shape (C,), or None
        Weight of each class; None means 1.
    ignore_index : int
        Terms with this target are left out.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides the sum of the terms by the sum of their w[t].
    label_smoothing : float in [0, 1]
        Share of the target's weight that is spread over all classes.

    Returns
    -------
    loss : float, or ndarray of target's shape and logits' dtype with ``reduction='none'``
        NaN for the mean of no terms, as in torch.
    cache : CrossEntropyCache
        What the backward function needs.

    Notes
    -----
    Error bound of a term: eps64 · (R + C + 4) · its weight, with eps64 of float64, R the range of
    its logits and C the number of classes. Derivation, in units of eps64 / 2: the error is R from
    subtracting the largest logit and from exp of the difference, C from the sum over C classes,
    less than 8 + log C from log, exp and the remaining operations, and R from the last difference.
    ``reduction='none'`` then rounds to the logits' dtype. A gradient has an error of
    eps64 · (R + C + 4) times the terms of :func:`cross_entropy_backward`, and is then rounded.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
       2015, arXiv:1512.00567, section 7.
    """
    classes = logits.shape[_class_axis(logits.ndim)]
    class_weight = np.ones(classes) if weight is None else weight.astype(np.float64)
    terms = target.reshape(-1).astype(np.int64), int(ignore_index)
    weights = class_weight, float(label_smoothing)
    batch = np.ascontiguousarray(logits, _work_dtype(logits.dtype))
    batch = batch.reshape(_as_batch(logits.shape))
    losses, loss, term_weight, probabilities, total_weight = current().cross_entropy_forward(
        batch, *terms, *weights
    )
    cache = CrossEntropyCache(
        *terms,
        *weights,
        term_weight,
        probabilities,
        reduction,
        total_weight,
        logits.shape,
        logits.dtype,
    )
    if reduction == "none":
        return losses.reshape(target.shape).astype(logits.dtype), cache
    if reduction == "mean":  # without any weight NaN: with smoothing it would be infinite
        loss = loss / total_weight if total_weight else math.nan
    return loss, cache


@np.errstate(all="ignore")
def cross_entropy_backward(
    cache: CrossEntropyCache, grad_output: np.ndarray | None = None
) -> np.ndarray:
    """Return the gradient of the loss with respect to the logits.

    Before the reduction, the term for target t has this gradient with respect to logit j::

        (1 − s) · w[t] · (p[j] − [j = t])  +  s / C · (p[j] · Σ_c w[c] − w[j])

    Parameters
    ----------
    cache : CrossEntropyCache
        The cache that the forward function returned.
    grad_output : ndarray of target's shape, or None
        The gradient of each term; for ``reduction='none'`` only.

    Returns
    -------
    ndarray, shape and dtype of the logits
        0 where the target is ignored.
    """
    reduction, total_weight, shape, dtype = cache[6:]
    if grad_output is not None:
        factor = grad_output.reshape(-1).astype(np.float64)
    else:
        factor = np.array([1 / (total_weight or math.nan) if reduction == "mean" else 1.0])
    grad = np.empty(_as_batch(shape), _work_dtype(dtype))
    current().cross_entropy_backward(factor, *cache[:6], grad)
    return grad.reshape(shape).astype(dtype, copy=False)


def _class_axis(ndim: int) -> int:
    return 0 if ndim == 1 else 1


def _as_batch(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape (N, C, P) of logits of shape (C,) or (N, C, d1, ...)."""
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], math.prod(shape[2:])


def _work_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype of the engine's arrays: for float16, float64, so as to round once."""
    return np.dtype(np.float64) if dtype == np.float16 else dtype


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> float | np.ndarray:
    """Return the cross-entropy of softmax(logits) against class indices.

    :func:`cross_entropy_forward` gives the terms.

    Parameters
    ----------
    logits : array_like, shape (C,), (N, C) or (N, C, d1, ...), of a float dtype
        Scores of the C classes.
    target : array_like of integers, shape (), (N,) or (N, d1, ...)
        Class indices.
    weight : array_like, shape (C,), or None
        Weight of each class.
    ignore_index : int
        Terms with this target are left out.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides the sum of the terms by the sum of the weights of their targets.
    label_smoothing : float in [0, 1]
        Share of the target's weight that is spread over all classes.

    Returns
    -------
    float, or ndarray of target's shape and logits' dtype with ``reduction='none'``
        The loss.

    Raises
    ------
    ShapeError, DtypeError
        If the arrays do not fit together.
    DataError
        If a target is neither a class nor `ignore_index`.
    ValueError
        If `reduction` is unknown or `label_smoothing` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> cross_entropy(np.array([[1e4, 0.0], [0.0, 0.0]]), np.array([0, 1]), reduction="none")
    array([0.        , 0.69314718])
    """
    check_loss_options("cross_entropy", reduction, label_smoothing)
    check_ignore_index("cross_entropy", ignore_index)
    checked = check_cross_entropy("cross_entropy", logits, target, weight, ignore_index)
    return cross_entropy_forward(*checked, ignore_index, reduction, label_smoothing)[0]


def check_loss_options(who: str, reduction: str, label_smoothing: float = 0.0) -> None:
    """Raise ValueError unless `reduction` is known and `label_smoothing` in [0, 1]."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{who}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")
    check_number(who, "label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{who}: expected label_smoothing in [0, 1], got {label_smoothing}")


def check_ignore_index(who: str, ignore_index: int) -> None:
    """Raise ValueError unless `ignore_index` is an integer that int64 holds."""
    check_integer(who, "ignore_index", ignore_index)
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"{who}: expected ignore_index to be an int64, got {ignore_index}")


def check_cross_entropy(
    who: str,
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return logits, target and weight as arrays, or raise if they do not fit together."""
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
    wrong = target.astype(np.uint64) >= classes  # negative numbers become very large ones
    if np.count_nonzero(wrong) and (wrong := wrong & (target != ignore_index)).any():
        raise DataError(
            f"{who}: expected targets from 0 to {classes - 1} (or ignore_index {ignore_index}), "
            f"got {target[wrong].flat[0]}"
        )
    if weight is not None:
        weight = float_array(who, weight, "weight")
        same_shape(who, weight, (classes,), "weight")
    return logits, target, weight
