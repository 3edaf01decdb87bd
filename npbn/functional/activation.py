"""Elementwise activations; the cache of each is its input, by reference.

``np.asarray`` keeps results without axes arrays: NumPy returns them as scalars.
"""

import numpy as np
from numpy.typing import ArrayLike

from npbn.engines import current
from npbn.functional.checks import float_array


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return max(x, 0) and the cache.

    Parameters
    ----------
    x : ndarray, any shape
        The input.

    Returns
    -------
    y : ndarray, shape and dtype of x
        NaN where x is NaN.
    cache : ndarray
        The input x itself.
    """
    return current().relu_forward(x), x


def relu_backward(grad_output: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return the gradient of the input: `grad_output` where x > 0 or x is NaN, else 0, as torch.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of x
        Gradient of the loss with respect to the output.
    cache : ndarray
        The input x, as :func:`relu_forward` returns it.

    Returns
    -------
    ndarray, shape and dtype of x
        Gradient of the loss with respect to the input.
    """
    return current().relu_backward(grad_output, cache)


@np.errstate(all="ignore")
def sigmoid_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 / (1 + exp(−x)) and the cache.

    Parameters
    ----------
    x : ndarray, any shape
        The input.

    Returns
    -------
    y : ndarray, shape and dtype of x
        The output.
    cache : ndarray
        The input x itself.
    """
    small = np.exp(-np.abs(x))  # never overflows
    return np.asarray(np.where(x < 0, small, x.dtype.type(1)) / (1 + small)), x


@np.errstate(all="ignore")
def sigmoid_backward(grad_output: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return the gradient of the input, grad_output · σ(x) σ(−x).

    It is computed as grad_output · exp(−|x|) / (1 + exp(−|x|))², which is accurate where σ(x)
    rounds to 1.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of x
        Gradient of the loss with respect to the output.
    cache : ndarray
        The input x, as :func:`sigmoid_forward` returns it.

    Returns
    -------
    ndarray, shape and dtype of x
        Gradient of the loss with respect to the input.
    """
    small = np.exp(-np.abs(cache))
    return np.asarray(grad_output * (small / np.square(1 + small)))


def relu(x: ArrayLike) -> np.ndarray:
    """Return max(x, 0).

    Parameters
    ----------
    x : array_like, any shape, of a float dtype
        The input.

    Returns
    -------
    ndarray, shape and dtype of x
        The output.

    Raises
    ------
    DtypeError
        If `x` is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return relu_forward(float_array("relu", x))[0]


def sigmoid(x: ArrayLike) -> np.ndarray:
    """Return 1 / (1 + exp(−x)).

    Parameters
    ----------
    x : array_like, any shape, of a float dtype
        The input.

    Returns
    -------
    ndarray, shape and dtype of x
        The output.

    Raises
    ------
    DtypeError
        If `x` is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return sigmoid_forward(float_array("sigmoid", x))[0]
