"""PaddlePaddle: ``paddle.nn:BatchNorm1D``, 2D and 3D."""

from functools import partial
from typing import Any

import numpy as np
import paddle

from npbn.testing.adapters import gradients_of, ranks_not_taken
from npbn.testing.case import Setup
from npbn.testing.protocol import Gradients, Implementation

RANKS = {"BatchNorm1D": (2, 3), "BatchNorm2D": (4,), "BatchNorm3D": (5,)}
NAMES = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}


class _Layer:
    num_batches_tracked = None

    def __init__(self, cls: type, setup: Setup):
        before = paddle.get_default_dtype()
        paddle.set_default_dtype(setup.dtype.name)
        try:
            self.norm = cls(
                setup.num_features,
                momentum=setup.momentum,
                epsilon=setup.eps,
                weight_attr=None if setup.weight is not None else False,
                bias_attr=None if setup.bias is not None else False,
            )
        finally:
            paddle.set_default_dtype(before)
        self.load(setup)

    def load(self, setup: Setup) -> None:
        for name, theirs in NAMES.items():
            if (values := getattr(setup, name)) is not None:
                getattr(self.norm, theirs).set_value(np.array(values))
        self.wanted = (setup.weight is not None, setup.bias is not None)

    running_mean = property(lambda self: self.norm._mean.numpy())
    running_var = property(lambda self: self.norm._variance.numpy())

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.norm.train() if training else self.norm.eval()
        self.x = paddle.to_tensor(np.array(x), stop_gradient=False)
        self.y = self.norm(self.x)
        y: np.ndarray = self.y.numpy()
        return y

    def backward(self, grad_output: np.ndarray) -> Gradients:
        parameters = zip(self.wanted, (self.norm.weight, self.norm.bias), strict=True)
        wanted = [self.x, *(tensor if there else None for there, tensor in parameters)]
        grad = paddle.to_tensor(np.array(grad_output))

        def gradients(present: list[Any]) -> list[np.ndarray]:
            found = paddle.grad(self.y, present, grad, retain_graph=True)
            return [tensor.numpy() for tensor in found]

        return gradients_of(wanted, gradients)


def implementation(cls: type) -> Implementation:
    """Check a BatchNorm of Paddle; its CPU kernels have no float16, its tensors no layout."""
    missing = ("untracked", "float16", "layouts", "vector_layouts")
    return Implementation(
        partial(_Layer, cls),
        f"paddle.nn.{cls.__name__}",
        (*ranks_not_taken(cls, RANKS), *missing),
        "paddle",
    )
