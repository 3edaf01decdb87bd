"""tinygrad: ``tinygrad.nn:BatchNorm``."""

from functools import partial
from typing import Any

import numpy as np
from tinygrad import Context, Tensor

from npbn.testing.adapters import gradients_of
from npbn.testing.case import Setup
from npbn.testing.names import VECTORS
from npbn.testing.protocol import Gradients, Implementation


class _Layer:
    def __init__(self, cls: type, setup: Setup):
        affine = setup.weight is not None
        self.norm: Any = cls(setup.num_features, setup.eps, affine, setup.tracks, setup.momentum)
        self.norm.num_batches_tracked.assign(setup.num_batches_tracked).realize()
        self.load(setup)

    def load(self, setup: Setup) -> None:
        for name in VECTORS:
            if (values := getattr(setup, name)) is not None:
                setattr(self.norm, name, Tensor(values.copy()).realize())

    running_mean = property(lambda self: self.norm.running_mean.numpy().copy())
    running_var = property(lambda self: self.norm.running_var.numpy().copy())
    num_batches_tracked = property(lambda self: self.norm.num_batches_tracked.item())

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.x = Tensor(np.array(x, order="C")).realize()
        with Context(TRAINING=int(training)):
            self.y = self.norm(self.x)
        y: np.ndarray = self.y.numpy().copy()
        return y

    def backward(self, grad_output: np.ndarray) -> Gradients:
        wanted = (self.x, self.norm.weight, self.norm.bias)
        grad = Tensor(np.array(grad_output, order="C"))

        def gradients(present: list[Any]) -> list[np.ndarray]:
            return [tensor.numpy() for tensor in self.y.gradient(*present, gradient=grad)]

        return gradients_of(wanted, gradients)


def implementation(cls: type) -> Implementation:
    """Check ``tinygrad.nn.BatchNorm``: it has weight and bias or neither, and refuses nothing.

    float16 input with float32 parameters gives a float32 output: it is not supported. Tensors are
    made as contiguous copies, so memory layouts do not reach it.
    """
    missing = ("weight_alone", "bias_alone", "momentum_none", "errors", "clean_errors", "float16")
    name = f"tinygrad.nn.{cls.__name__}"
    return Implementation(partial(_Layer, cls), name, (*missing, "layouts", "vector_layouts"))
