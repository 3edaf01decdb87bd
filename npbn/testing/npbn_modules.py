"""npbn's own modules: BatchNorm1d, 2d, 3d, their variants, and what is made and behaves as they."""

from typing import Any

import numpy as np

from npbn.testing.case import Setup
from npbn.testing.layouts import laid_out
from npbn.testing.names import PARAMETERS, VECTORS
from npbn.testing.protocol import Gradients, Implementation


def npbn_implementation(cls: Any, unsupported: tuple[str, ...] = ()) -> Implementation:
    """Check a BatchNorm module of npbn (or one that is made and behaves as they do).

    Parameters
    ----------
    unsupported : tuple of str
        Of :data:`CAPABILITIES`.

    Returns
    -------
    Implementation
        For :func:`npbn.testing.check_batch_norm`.
    """

    class Layer:
        def __init__(self, setup: Setup):
            self.module = cls(
                setup.num_features,
                setup.eps,
                setup.momentum,
                affine=setup.weight is not None or setup.bias is not None,
                track_running_stats=setup.tracks,
                dtype=setup.dtype,
            )
            for name in VECTORS:
                values = laid_out(getattr(setup, name), setup.layout)
                if name in PARAMETERS and values is not None:
                    getattr(self.module, name).data = values
                else:
                    setattr(self.module, name, values)
            if setup.tracks:
                self.module.num_batches_tracked[...] = setup.num_batches_tracked

        def load(self, setup: Setup) -> None:
            for name in VECTORS:
                if getattr(setup, name) is not None:
                    held = getattr(self.module, name)
                    values = held.data if name in PARAMETERS else held
                    values[...] = getattr(setup, name)

        running_mean = property(lambda self: self.module.running_mean)
        running_var = property(lambda self: self.module.running_var)
        num_batches_tracked = property(lambda self: self.module.num_batches_tracked)

        def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
            y: np.ndarray = self.module.train(training)(x)
            return y

        def backward(self, grad_output: np.ndarray) -> Gradients:
            self.module.zero_grad()
            grad_input = self.module.backward(grad_output)
            weight, bias = self.module.weight, self.module.bias
            return grad_input, weight and weight.grad, bias and bias.grad

    ranks = {f"rank{rank}" for rank in (2, 3, 4, 5) if rank not in cls.input_shapes}
    return Implementation(Layer, cls.__name__, (*unsupported, *sorted(ranks)))
