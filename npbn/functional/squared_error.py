"""The squared error and its gradient, computed in float64 and rounded once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.functional.checks import float_array, same_dtype, same_shape
from npbn.functional.loss import check_loss_options


class MSECache(NamedTuple):
    """What :func:`mse_backward` needs of the forward pass.

    Parameters
    ----------
    difference : ndarray, float64
        The difference x − target.
    reduction : {'mean', 'sum', 'none'}
        The argument.
    dtype : numpy.dtype
        That of x.
    """

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
        Input and what it is compared with.
    reduction : {'mean', 'sum', 'none'}
        The mean is over all elements.

    Returns
    -------
    loss : float, or ndarray of x's shape and dtype with ``reduction='none'``
        The loss.
    cache : MSECache
        What the backward function needs.

    Notes
    -----
    Error bound: (n + 4) eps64 / 2 · loss for the sum or mean of n terms, with eps64 of float64; 2
    eps64 for a term or a gradient, before it is rounded to x's dtype.
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
    """Return the gradient of the loss with respect to x.

    It is 2 (x − target) · grad_output, divided by the number of elements for the mean.

    Parameters
    ----------
    cache : MSECache
        The cache that the forward function returned.
    grad_output : ndarray, shape of x, or None
        The gradient of each term; for ``reduction='none'`` only.

    Returns
    -------
    ndarray, shape and dtype of x
        Gradient of the loss with respect to the input.
    """
    grad = 2 * cache.difference
    if cache.reduction == "mean":
        grad /= max(grad.size, 1)
    elif cache.reduction == "none":
        grad *= grad_output
    return np.asarray(grad, cache.dtype)


def mse_loss(x: ArrayLike, target: ArrayLike, reduction: str = "mean") -> float | np.ndarray:
    """Return the squared error (x − target)², reduced.

    Parameters
    ----------
    x, target : array_like, of one shape and float dtype
        Input and what it is compared with.
    reduction : {'mean', 'sum', 'none'}
        The mean is over all elements.

    Returns
    -------
    float, or ndarray of x's shape and dtype with ``reduction='none'``
        The loss.

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


def check_mse(who: str, x: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays if they have one shape and dtype, else raise."""
    x, target = float_array(who, x), float_array(who, target, "target")
    same_shape(who, target, x.shape, "target")
    same_dtype(who, target, x.dtype, "target")
    return x, target
