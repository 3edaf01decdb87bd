"""ReLU and Sigmoid."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.functional.activation import (
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
)
from npbn.functional.checks import float_array
from npbn.layers.module import Module


class ReLU(Module):
    """Computes max(x, 0) of inputs of any shape; torch's ``nn.ReLU``.

    The gradient at x = 0 is 0.

    Raises
    ------
    DtypeError
        On an input that is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> relu = ReLU()
    >>> relu(np.array([-2.0, 3.0]))
    array([0., 3.])
    >>> relu.backward(np.array([10.0, 20.0]))
    array([ 0., 20.])
    """

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, np.ndarray]:
        return relu_forward(float_array("ReLU", x))

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return relu_backward(grad_output, cache) if input_grad else None


class Sigmoid(Module):
    """Computes 1 / (1 + exp(−x)) of inputs of any shape; torch's ``nn.Sigmoid``.

    Raises
    ------
    DtypeError
        On an input that is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid = Sigmoid()
    >>> sigmoid(np.array([0.0]))
    array([0.5])
    >>> sigmoid.backward(np.array([1.0]))
    array([0.25])
    """

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, np.ndarray]:
        return sigmoid_forward(float_array("Sigmoid", x))

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return sigmoid_backward(grad_output, cache) if input_grad else None
