"""Flax's newer interface: ``flax.nnx:BatchNorm``."""

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from npbn.testing.adapters.jax_layer import NO_LAYOUTS, Layer, State
from npbn.testing.protocol import Implementation


def _step(
    make: tuple[Any, ...], training: bool, x: jax.Array, params: State, state: State
) -> tuple[jax.Array, State]:
    cls, num_features, *options = make
    module = cls(num_features, use_running_average=not training, rngs=nnx.Rngs(0), **dict(options))
    given = {"scale": params.get("weight"), "bias": params.get("bias"), **state}
    for name, values in given.items():
        if values is not None:
            setattr(module, name, type(getattr(module, name))(values))
    y = module(x)
    return y, {name: getattr(module, name)[...] for name in state}


class _Layer(Layer):
    def __init__(self, cls: type, setup: Any):
        super().__init__(_step, setup)
        self.cls = cls

    def options(self, x: np.ndarray, training: bool) -> tuple[Any, ...]:
        setup = self.setup
        options = {
            "axis": 1,
            "momentum": setup.momentum,
            "epsilon": setup.eps,
            # by default float16 input with float32 parameters gives float32
            "dtype": x.dtype,
            "param_dtype": setup.dtype,
            "use_scale": setup.weight is not None,
            "use_bias": setup.bias is not None,
        }
        return (self.cls, setup.num_features, *options.items()), training


def implementation(cls: type) -> Implementation:
    """Check ``flax.nnx.BatchNorm``, or a class that is made and called as it is."""
    name = f"flax.nnx.{cls.__name__}"
    return Implementation(partial(_Layer, cls), name, ("untracked", *NO_LAYOUTS), "flax")
