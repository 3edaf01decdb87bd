"""MyGrad: ``mygrad.nnet.layers:batchnorm``, a function of one batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import mygrad
import numpy as np

from npbn.testing.case import Setup
from npbn.testing.protocol import Gradients, Implementation


class _Layer:
    running_mean: np.ndarray | None = None
    running_var: np.ndarray | None = None
    num_batches_tracked = None

    def __init__(self, function: Callable[..., Any], setup: Setup):
        self.function = function
        self.load(setup)

    def load(self, setup: Setup) -> None:
        self.eps = setup.eps
        self.weight, self.bias = (
            None if values is None else mygrad.tensor(values)
            for values in (setup.weight, setup.bias)
        )

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.x = mygrad.tensor(x)
        self.y = self.function(self.x, gamma=self.weight, beta=self.bias, eps=self.eps)
        y: np.ndarray = self.y.data
        return y

    def backward(self, grad_output: np.ndarray) -> Gradients:
        self.y.backward(grad_output)
        tensors = (self.x, self.weight, self.bias)
        grad_input, weight, bias = (None if tensor is None else tensor.grad for tensor in tensors)
        return grad_input, weight, bias


def implementation(function: Callable[..., Any]) -> Implementation:
    """Check ``mygrad.nnet.layers.batchnorm``: no running statistics, and so no evaluation."""
    missing = (
        *("evaluation", "eval_backward", "running_statistics", "counter", "momentum_none"),
        *("reload", "errors", "clean_errors", "float16", "vector_layouts"),
    )
    return Implementation(partial(_Layer, function), f"mygrad {function.__name__}", missing)
