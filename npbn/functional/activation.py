"""Elementwise activations; the cache of each is its input, by reference.

NumPy turns results without axes into scalars, which ``np.asarray`` turns back.
"""

import numpy as np

from npbn.engines import current
from npbn.functional.checks import float_array


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return max(x, 0), of x's shape and dtype, and the cache; NaN stays NaN."""
    return current().relu_forward(x), x


def relu_backward(grad_output: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return `grad_output` where x > 0 or x is NaN, and 0 elsewhere (0 at x = 0), as torch."""
    return current().relu_backward(grad_output, cache)


@np.errstate(all="ignore")
def sigmoid_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 / (1 + exp(−x)), of x's shape and dtype, and the cache."""
    small = np.exp(-np.abs(x))  # never overflows
    return np.asarray(np.where(x < 0, small, x.dtype.type(1)) / (1 + small)), x


@np.errstate(all="ignore")
def sigmoid_backward(grad_output: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return grad_output · σ(x) σ(−x) = grad_output · exp(−|x|) / (1 + exp(−|x|))².

    This form keeps its digits where σ(x) rounds to 1.
    """
    small = np.exp(-np.abs(cache))
    return np.asarray(grad_output * (small / np.square(1 + small)))


def relu(x: np.ndarray) -> np.ndarray:
    """Return max(x, 0) for an array of any shape.

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


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(−x)) for an array of any shape.

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
