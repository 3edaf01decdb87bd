"""Haiku: ``haiku:BatchNorm``, of the package dm-haiku."""

from functools import partial
from typing import Any

import haiku
import jax
import jax.numpy as jnp
import numpy as np

from npbn.testing.adapters.jax_layer import NO_LAYOUTS, Layer, State
from npbn.testing.case import Setup
from npbn.testing.protocol import Implementation

# The averages are divided by 1 - decay_rate^batches, which is 1 after so many.
BATCHES = 2**30
NAMES = {"weight": "scale", "bias": "offset"}


def _step(
    cls: type, options: tuple[Any, ...], training: bool, x: jax.Array, params: State, state: State
) -> tuple[jax.Array, State]:
    def along(values: jax.Array) -> jax.Array:
        return values.reshape(1, -1, *(1,) * (x.ndim - 2))

    def average(values: jax.Array) -> State:
        return {"hidden": along(values), "average": along(values), "counter": jnp.array(BATCHES)}

    norm = haiku.transform_with_state(
        lambda x: cls(*options, data_format="channels_first", name="norm")(x, training)
    )
    given = {NAMES[name]: along(values) for name, values in params.items()}
    averages = {f"norm/~/{name}_ema": average(values) for name, values in state.items()}
    y, moved = norm.apply({"norm": given}, averages, None, x)
    return y, {name: moved[f"norm/~/{name}_ema"]["average"].ravel() for name in state}


class _Layer(Layer):
    def __init__(self, cls: type, setup: Setup):
        super().__init__(_step, setup)
        self.cls = cls

    def options(self, x: np.ndarray, training: bool) -> tuple[Any, ...]:
        setup = self.setup
        created = (setup.weight is not None, setup.bias is not None)
        return self.cls, (*created, setup.momentum, setup.eps), training


def implementation(cls: type) -> Implementation:
    """Check ``haiku.BatchNorm``, or a class that is made and called as it is.

    Its parameters have the input's dtype: float16 with float32 parameters is not supported.
    """
    name = f"haiku.{cls.__name__}"
    missing = ("untracked", "float16", *NO_LAYOUTS)
    return Implementation(partial(_Layer, cls), name, missing, "haiku")
