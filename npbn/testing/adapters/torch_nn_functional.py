"""PyTorch's function: ``torch.nn.functional:batch_norm``."""

from collections.abc import Callable

import numpy as np
import torch

from npbn.testing.adapters.torch_nn import Layer, array
from npbn.testing.case import Setup
from npbn.testing.protocol import Implementation


class _FunctionLayer(Layer):
    num_batches_tracked = None

    def __init__(self, function: Callable[..., torch.Tensor], setup: Setup):
        self.function = function
        self.load(setup)

    def load(self, setup: Setup) -> None:
        self.setup = setup
        self.weight, self.bias = (
            None if values is None else torch.tensor(values).requires_grad_()
            for values in (setup.weight, setup.bias)
        )
        self.mean, self.var = (
            None if values is None else torch.tensor(np.array(values))
            for values in (setup.running_mean, setup.running_var)
        )

    running_mean = property(lambda self: array(self.mean))
    running_var = property(lambda self: array(self.var))

    def apply(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        by_batch = training or not self.setup.tracks
        vectors = (self.mean, self.var, self.weight, self.bias)
        return self.function(x, *vectors, by_batch, self.setup.momentum, self.setup.eps)


def implementation(function: Callable[..., torch.Tensor]) -> Implementation:
    """Check a function with the signature of ``torch.nn.functional.batch_norm``.

    It has no counter, and so no ``momentum=None``. It is given copies of weights and statistics.
    """
    missing = ("counter", "momentum_none", "vector_layouts")
    name = f"torch.nn.functional.{function.__name__}"
    return Implementation(lambda setup: _FunctionLayer(function, setup), name, missing)
