"""ReLU, compiled."""

import numpy as np

from npbn.engines import numpy_
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.flat import flat, over_elements


def relu_forward(x: np.ndarray) -> np.ndarray:
    """Return max(x, 0), of x's shape and dtype; NaN stays NaN."""
    y = np.empty_like(x)
    vectors = flat(x, y)
    if vectors is None:
        return numpy_.relu_forward(x)
    over_elements(_forward, (vectors[0],), (vectors[1],))
    return y


def relu_backward(grad: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return `grad` where x > 0 or x is NaN, and 0 elsewhere (0 at x = 0), as torch."""
    grad_input = np.empty_like(x)
    vectors = flat(grad, x, grad_input)
    if vectors is None:
        return numpy_.relu_backward(grad, x)
    over_elements(_backward, (vectors[0], vectors[1]), (vectors[2],))
    return grad_input


@compiled
def _forward(x, first, last, y):
    x, y, zero = x[first:last], y[first:last], x.dtype.type(0)
    for i in range(len(x)):
        value = x[i]
        y[i] = zero if value <= 0 else value


@compiled
def _backward(grad, x, first, last, grad_input):
    grad, x, grad_input = grad[first:last], x[first:last], grad_input[first:last]
    zero = x.dtype.type(0)
    for i in range(len(x)):
        g = grad[i]  # outside the condition, so that it is vectorised
        grad_input[i] = zero if x[i] <= 0 else g
