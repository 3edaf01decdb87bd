"""The affine map y = x Wᵀ + b."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import ShapeError
from npbn.functional.checks import float_array, same_dtype, same_shape


class LinearCache(NamedTuple):
    """What :func:`linear_backward` needs of the forward pass.

    Parameters
    ----------
    x, weight : ndarray
        The arguments, by reference.
    """

    x: np.ndarray
    weight: np.ndarray


@np.errstate(all="ignore")
def linear_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> tuple[np.ndarray, LinearCache]:
    """Return x Wᵀ + b, and the cache for backward.

    Parameters
    ----------
    x : ndarray, shape (*, in_features)
        The input.
    weight : ndarray, shape (out_features, in_features), dtype of x
        The matrix W.
    bias : ndarray, shape (out_features,), dtype of x, or None
        The vector b.

    Returns
    -------
    y : ndarray, shape (*, out_features), dtype of x
        The output.
    cache : LinearCache
        What the backward function needs.

    Notes
    -----
    Error bound, for any order of summation: (in_features + 1) eps / 2 · (Σ|x · w| + |b|), to
    first order in eps. N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd
    edition, 2002, section 3.1.
    """
    y = _rows(x) @ weight.T
    if bias is not None:
        y += bias
    if x.ndim != 2:
        y = y.reshape(*x.shape[:-1], len(weight))
    return y, LinearCache(x, weight)


@np.errstate(all="ignore")
def linear_backward(
    grad_output: np.ndarray, cache: LinearCache, input_grad: bool = True, bias_grad: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Return the gradients of input, weight and bias.

    With all leading axes joined into one, whose rows are the terms of the sums::

        grad_input  = grad_output W
        grad_weight = grad_outputᵀ x
        grad_bias   = Σ grad_output

    Parameters
    ----------
    grad_output : ndarray, shape (*, out_features)
        Gradient of the loss with respect to the output.
    cache : LinearCache
        The cache that the forward function returned.
    input_grad, bias_grad : bool
        Whether to compute `grad_input` and `grad_bias`; None is returned in their place otherwise.

    Returns
    -------
    grad_input : ndarray, shape (*, in_features), or None
        Gradient of the loss with respect to the input.
    grad_weight : ndarray, shape (out_features, in_features)
        Gradient of the loss with respect to the weight.
    grad_bias : ndarray, shape (out_features,), or None
        Gradient of the loss with respect to the bias.

    Notes
    -----
    Error bound: k eps / 2 · Σ|terms|, with k = out_features terms for the gradient of the input
    and k = the number of rows for the others.
    """
    x, weight = cache
    grad_rows, rows = _rows(grad_output), _rows(x)
    grad_input = grad_rows @ weight if input_grad else None
    if grad_input is not None and x.ndim != 2:
        grad_input = grad_input.reshape(x.shape)
    # A product, since in float16 a sum of ones over rows ends at 2048; it is also faster.
    grad_bias = np.ones(len(rows), grad_rows.dtype) @ grad_rows if bias_grad else None
    # Transposed twice: its layout in memory is that of the layer's weight, for SGD.
    return grad_input, (rows.T @ grad_rows).T, grad_bias


def _rows(x: np.ndarray) -> np.ndarray:
    """Return (*, features) as a matrix; a reshape to -1 fails without rows."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> np.ndarray:
    """Return x Wᵀ + b.

    Parameters
    ----------
    x : array_like, shape (*, in_features), of a float dtype
        The input.
    weight : array_like, shape (out_features, in_features), dtype of x
        The matrix W.
    bias : array_like, shape (out_features,), dtype of x, or None
        The vector b.

    Returns
    -------
    ndarray, shape (*, out_features), dtype of x
        The output.

    Raises
    ------
    ShapeError, DtypeError
        If they do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> linear(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, 3.0]]))
    array([3., 6.])
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if weight.ndim != 2:
        raise ShapeError(
            f"linear: expected weight of shape (out_features, in_features), got {weight.shape}"
        )
    bias = None if bias is None else np.asarray(bias)
    check_linear("linear", x, weight, bias)
    return linear_forward(x, weight, bias)[0]


def check_linear(who: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> None:
    """Raise ShapeError or DtypeError unless `x` and the bias fit the weight."""
    float_array(who, x)
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"{who}: expected input of shape (*, {weight.shape[1]}), got {x.shape}")
    same_dtype(who, x, weight.dtype)
    if bias is not None:
        same_shape(who, bias, (len(weight),), "bias")
        same_dtype(who, bias, weight.dtype, "bias")
