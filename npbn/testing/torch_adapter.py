"""PyTorch's BatchNorms behind the protocol; the one file of npbn.testing that imports torch."""

import numpy as np
import torch

from npbn.testing.case import Setup
from npbn.testing.protocol import BatchNorm, Gradients, Implementation

RANKS = {"BatchNorm1d": (2, 3), "BatchNorm2d": (4,), "BatchNorm3d": (5,)}


class _Layer:
    def __init__(self, cls: type, setup: Setup):
        dtype = torch.from_numpy(np.zeros(0, setup.dtype)).dtype
        affine = setup.weight is not None
        self.module = cls(
            setup.num_features,
            setup.eps,
            setup.momentum,
            affine=affine,
            track_running_stats=setup.tracks,
            bias=setup.bias is not None,
            dtype=dtype,
        )
        state = {
            name: torch.tensor(getattr(setup, name))
            for name in ("weight", "bias", "running_mean", "running_var")
            if getattr(setup, name) is not None
        }
        if setup.tracks:
            state["num_batches_tracked"] = torch.tensor(setup.num_batches_tracked)
        self.module.load_state_dict(state)

    def __getattr__(self, name: str) -> np.ndarray | None:
        if name not in ("running_mean", "running_var", "num_batches_tracked"):
            raise AttributeError(name)
        tensor = getattr(self.module, name)
        return None if tensor is None else tensor.numpy()

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        # torch takes neither negative strides nor read-only arrays: it is given a copy.
        self.x = torch.tensor(np.array(x)).requires_grad_()
        self.y = self.module.train(training)(self.x)
        return self.y.detach().numpy()

    def backward(self, grad_output: np.ndarray) -> Gradients:
        self.module.zero_grad()
        self.y.backward(torch.tensor(np.array(grad_output)))
        parameters = (self.module.weight, self.module.bias)
        weight, bias = (None if p is None or p.grad is None else p.grad.numpy() for p in parameters)
        return self.x.grad.numpy(), weight, bias


def torch_implementation(cls: type, unsupported: tuple[str, ...] = ()) -> Implementation:
    """Check a BatchNorm module of torch, such as ``torch.nn.BatchNorm1d``.

    torch raises its counter before it refuses one value per channel: "refusals change
    nothing" is not supported. A bias without a weight is made as torch makes none: left out.
    """
    taken = RANKS.get(cls.__name__, (2, 3, 4, 5))
    ranks = tuple(f"rank{rank}" for rank in (2, 3, 4, 5) if rank not in taken)

    def make(setup: Setup) -> BatchNorm:
        return _Layer(cls, setup)

    missing = (*ranks, "bias_alone", "clean_errors")
    return Implementation(make, f"torch.nn.{cls.__name__}", (*unsupported, *missing))
