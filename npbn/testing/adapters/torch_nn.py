"""PyTorch's modules: ``torch.nn:BatchNorm1d``, 2d, 3d, SyncBatchNorm and what derives from them."""

import numpy as np
import torch

from npbn.testing.adapters import gradients_of, ranks_not_taken
from npbn.testing.case import Setup
from npbn.testing.names import VECTORS
from npbn.testing.protocol import Gradients, Implementation

NO_BIAS = {"bias": False}  # since torch 2.13, and not in every class that derives from its own
RANKS = {"BatchNorm1d": (2, 3), "BatchNorm2d": (4,), "BatchNorm3d": (5,)}


class Layer:
    """A step by autograd; subclasses have weight, bias and `apply`."""

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def apply(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Return the output."""
        raise NotImplementedError

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Return the output."""
        self.x = _as_it_lies(x).requires_grad_()
        self.y = self.apply(self.x, training)
        return self.y.detach().numpy()

    def backward(self, grad_output: np.ndarray) -> Gradients:
        """Return the gradients."""
        grad = _as_it_lies(grad_output)
        return gradients_of(
            (self.x, self.weight, self.bias),
            lambda present: map(array, torch.autograd.grad(self.y, present, grad)),
        )


def _as_it_lies(x: np.ndarray) -> torch.Tensor:
    """Return a tensor that shares x's memory; torch takes no negative strides, they are copied."""
    return torch.from_numpy(x.copy() if min(x.strides) < 0 else x)


def array(tensor: torch.Tensor | None) -> np.ndarray | None:
    """Return a tensor's values."""
    return None if tensor is None else tensor.detach().numpy()


class _ModuleLayer(Layer):
    def __init__(self, cls: type, setup: Setup):
        self.module = cls(
            setup.num_features,
            setup.eps,
            setup.momentum,
            affine=setup.weight is not None,
            track_running_stats=setup.tracks,
            dtype=torch.from_numpy(np.zeros(0, setup.dtype)).dtype,
            **({} if setup.weight is None or setup.bias is not None else NO_BIAS),
        )
        self.weight, self.bias = self.module.weight, self.module.bias
        if setup.tracks:
            self.module.num_batches_tracked.fill_(setup.num_batches_tracked)
        self.load(setup)

    def load(self, setup: Setup) -> None:
        given = {name: getattr(setup, name) for name in VECTORS}
        state = {name: torch.tensor(value) for name, value in given.items() if value is not None}
        self.module.load_state_dict(state, strict=False)  # the counter goes on

    running_mean = property(lambda self: array(self.module.running_mean))
    running_var = property(lambda self: array(self.module.running_var))
    num_batches_tracked = property(lambda self: array(self.module.num_batches_tracked))

    def apply(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        y: torch.Tensor = self.module.train(training)(x)
        return y


def implementation(cls: type, unsupported: tuple[str, ...] = ()) -> Implementation:
    """Check a BatchNorm module of torch, such as ``torch.nn.BatchNorm1d``.

    torch raises its counter before it refuses one value per channel: "refusals change
    nothing" is not supported. A bias without a weight is made as torch makes none: left out.
    Weights and statistics are copied, so their memory layout does not reach it.
    """
    missing = [*ranks_not_taken(cls, RANKS), "bias_alone", "clean_errors", "vector_layouts"]
    if not _takes_no_bias(cls):
        missing.append("weight_alone")
    name = f"torch.nn.{cls.__name__}"
    return Implementation(lambda setup: _ModuleLayer(cls, setup), name, (*missing, *unsupported))


def _takes_no_bias(cls: type) -> bool:
    try:
        cls(1, **NO_BIAS)
    except Exception:  # whichever: if it cannot be made at all, the check will say so
        return False
    return True
