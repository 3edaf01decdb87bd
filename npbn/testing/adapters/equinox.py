"""Equinox: ``equinox.nn:BatchNorm``."""

from functools import partial
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np

from npbn.testing.adapters.jax_layer import NO_LAYOUTS, Layer, State
from npbn.testing.case import Setup
from npbn.testing.protocol import Implementation

# In evaluation the averages are divided by 1 - momentum^batches, which is 1 after so many.
BATCHES = 2**30


def _step(
    make: tuple[Any, ...], training: bool, x: jax.Array, params: State, state: State
) -> tuple[jax.Array, State]:
    cls, num_features, affine, momentum, eps = make
    options = {"inference": not training, "dtype": state["mean"].dtype, "mode": "batch"}
    norm, kept = equinox.nn.make_with_state(cls)(
        num_features, "batch", eps, affine, momentum, **options
    )
    if affine:
        vectors = (params["weight"], params["bias"])
        norm = equinox.tree_at(lambda module: (module.weight, module.bias), norm, vectors)
    kept = kept.set(norm.batch_state_index, (state["mean"], state["var"]))
    kept = kept.set(norm.batch_counter, jnp.array(BATCHES))
    apply = jax.vmap(norm, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    y, moved = apply(x, kept)
    return y, dict(zip(("mean", "var"), moved.get(norm.batch_state_index), strict=True))


class _Layer(Layer):
    def __init__(self, cls: type, setup: Setup):
        super().__init__(_step, setup)
        self.cls = cls

    def options(self, x: np.ndarray, training: bool) -> tuple[Any, ...]:
        setup = self.setup
        affine = setup.weight is not None
        return (self.cls, setup.num_features, affine, setup.momentum, setup.eps), training


def implementation(cls: type) -> Implementation:
    """Check ``equinox.nn.BatchNorm`` with ``mode="batch"``, or a class that is made as it is.

    With the other mode, "ema", which is its default, training normalises by the running
    statistics. It has weight and bias, or neither. float16 input with float32 parameters gives
    a float32 output: it is not supported.
    """
    missing = ("untracked", "weight_alone", "bias_alone", "float16", *NO_LAYOUTS)
    return Implementation(partial(_Layer, cls), f"equinox.nn.{cls.__name__}", missing, "equinox")
