"""Flax's older interface: ``flax.linen:BatchNorm``."""

from functools import partial
from typing import Any

import jax
import numpy as np

from npbn.testing.adapters.jax_layer import NO_LAYOUTS, Layer, State
from npbn.testing.protocol import Implementation

NAMES = {"weight": "scale", "bias": "bias"}


def _step(
    module: Any, training: bool, x: jax.Array, params: State, state: State
) -> tuple[jax.Array, State]:
    variables = {
        "params": {NAMES[name]: values for name, values in params.items()},
        "batch_stats": state,
    }
    y, moved = module.apply(variables, x, use_running_average=not training, mutable=["batch_stats"])
    return y, moved["batch_stats"]


class _Layer(Layer):
    def __init__(self, cls: type, setup: Any):
        super().__init__(_step, setup)
        self.cls = cls

    def options(self, x: np.ndarray, training: bool) -> tuple[Any, ...]:
        setup = self.setup
        module = self.cls(
            axis=1,
            momentum=setup.momentum,
            epsilon=setup.eps,
            # by default float16 input with float32 parameters gives float32
            dtype=x.dtype,
            param_dtype=setup.dtype,
            use_scale=setup.weight is not None,
            use_bias=setup.bias is not None,
        )
        return module, training


def implementation(cls: type) -> Implementation:
    """Check ``flax.linen.BatchNorm``, or a class that is made and applied as it is."""
    name = f"flax.linen.{cls.__name__}"
    return Implementation(partial(_Layer, cls), name, ("untracked", *NO_LAYOUTS), "flax")
