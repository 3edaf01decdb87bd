"""Keras 3: ``keras.layers:BatchNormalization``, with the backend that Keras is set to.

That is the environment's ``KERAS_BACKEND``. The NumPy backend has no gradients.
"""

from functools import partial
from typing import Any

import keras
import numpy as np

from npbn.testing.case import Setup
from npbn.testing.protocol import Gradients, Implementation

WEIGHTS = {"weight": "gamma", "bias": "beta"}
STATISTICS = {"running_mean": "moving_mean", "running_var": "moving_variance"}


class Layer:
    """A layer whose dtype follows the first input's: a policy says what float16 is computed in."""

    num_batches_tracked = None

    def __init__(self, cls: type, setup: Setup):
        self.cls, self.setup = cls, setup
        self.norm: Any = None

    def load(self, setup: Setup) -> None:
        """Set weights and statistics."""
        self.setup = setup
        for name, theirs in (*WEIGHTS.items(), *STATISTICS.items()):
            if (values := getattr(setup, name)) is not None and self.norm is not None:
                getattr(self.norm, theirs).assign(values)

    def build(self, x: np.ndarray) -> None:
        """Make the layer of Keras, unless it is made: its dtype is the first input's."""
        if self.norm is not None:
            return
        setup = self.setup
        self.norm = self.cls(
            axis=1,
            momentum=setup.momentum,
            epsilon=setup.eps,
            center=setup.bias is not None,
            scale=setup.weight is not None,
            dtype="mixed_float16" if x.dtype == np.float16 else x.dtype.name,
        )
        self.norm.build(x.shape)
        self.load(setup)

    running_mean = property(lambda self: self._statistic("running_mean"))
    running_var = property(lambda self: self._statistic("running_var"))

    def _statistic(self, name: str) -> Any:
        if self.norm is None:
            return getattr(self.setup, name)
        return keras.ops.convert_to_numpy(getattr(self.norm, STATISTICS[name]))

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Return the output."""
        self.build(x)
        given = keras.ops.convert_to_tensor(np.array(x), dtype=x.dtype.name)
        y: np.ndarray = keras.ops.convert_to_numpy(self.norm(given, training=training))
        return y

    def backward(self, grad_output: np.ndarray) -> Gradients:
        """Raise TypeError: this is the layer of backends without gradients."""
        raise TypeError(f"the {keras.config.backend()} backend has no gradients here")

    def parameters(self) -> list[Any]:
        """Return weight and bias, as variables of Keras or None."""
        return [getattr(self.norm, theirs, None) for theirs in WEIGHTS.values()]


class _JaxLayer(Layer):
    """The same by ``stateless_call`` and a vector-Jacobian product."""

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        import jax

        self.build(x)
        norm = self.norm
        fixed = [variable.value for variable in norm.non_trainable_variables]

        def run(x: Any, parameters: Any) -> Any:
            return norm.stateless_call(parameters, fixed, x, training=training)

        parameters = [variable.value for variable in norm.trainable_variables]
        y, self.pullback, moved = jax.vjp(run, jax.numpy.array(x), parameters, has_aux=True)
        for variable, value in zip(norm.non_trainable_variables, moved, strict=True):
            variable.assign(value)
        return np.array(y)

    def backward(self, grad_output: np.ndarray) -> Gradients:
        grad_input, grads = self.pullback(np.array(grad_output))
        found = iter(grads)
        weight, bias = (None if v is None else np.array(next(found)) for v in self.parameters())
        return np.array(grad_input), weight, bias


def implementation(cls: type) -> Implementation:
    """Check ``keras.layers.BatchNormalization``, or a layer that is made as it is."""
    backend = keras.config.backend()
    layer: type[Layer] = Layer
    missing: tuple[str, ...] = ("untracked", "vector_layouts")
    if backend == "torch":
        from npbn.testing.adapters import keras_on_torch

        layer = keras_on_torch.Layer
    elif backend == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        layer = _JaxLayer
        missing += ("layouts",)
    else:
        missing += ("backward", "eval_backward")
    name = f"keras.layers.{cls.__name__} on {backend}"
    return Implementation(partial(layer, cls), name, missing, "keras")
