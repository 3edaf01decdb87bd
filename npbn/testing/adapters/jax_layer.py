"""What the adapters for JAX share: a step, compiled for each shape, and its gradient.

JAX has float64 only where it is switched on, which importing this file does for the process.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npbn.testing.case import Setup
from npbn.testing.protocol import Gradients

jax.config.update("jax_enable_x64", True)

State = dict[str, Any]
# JAX's arrays have no memory layout of their own: each is made as a copy.
NO_LAYOUTS = ("layouts", "vector_layouts")


@partial(jax.jit, static_argnums=(0, 1))
def _forward(step: Callable[..., Any], options: tuple[Any, ...], *given: Any) -> Any:
    x, params, state = given

    def run(x: jax.Array, params: State) -> tuple[jax.Array, State]:
        y_and_state: tuple[jax.Array, State] = step(*options, x, params, state)
        return y_and_state

    y, pullback, state = jax.vjp(run, x, params, has_aux=True)
    return y, pullback, state


@jax.jit
def _backward(pullback: Callable[[jax.Array], Any], grad_output: jax.Array) -> Any:
    return pullback(grad_output)


class Layer:
    """A BatchNorm as a function ``step(*options, x, params, state)`` to the output and new state.

    Parameters
    ----------
    step : callable
        A function of a module: it is compiled once for the same options and shapes.
    setup : Setup
    """

    num_batches_tracked = None

    def __init__(self, step: Callable[..., Any], setup: Setup):
        self.step = step
        self.load(setup)

    def load(self, setup: Setup) -> None:
        """Take weight, bias and running statistics, as copies."""
        self.setup = setup
        params = {"weight": setup.weight, "bias": setup.bias}
        state = {"mean": setup.running_mean, "var": setup.running_var}
        self.params, self.state = (
            {name: jnp.array(values) for name, values in given.items() if values is not None}
            for given in (params, state)
        )

    running_mean = property(lambda self: np.array(self.state["mean"]))
    running_var = property(lambda self: np.array(self.state["var"]))

    def options(self, x: np.ndarray, training: bool) -> tuple[Any, ...]:
        """Return what `step` takes first; hashable."""
        raise NotImplementedError

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Return the output; keep the new state, and the function that computes gradients."""
        options = self.options(x, training)
        y, self.pullback, self.state = _forward(
            self.step, options, jnp.array(x), self.params, self.state
        )
        return np.array(y)

    def backward(self, grad_output: np.ndarray) -> Gradients:
        """Return the gradients."""
        grad_input, grads = _backward(self.pullback, jnp.array(grad_output))
        found = (grads.get("weight"), grads.get("bias"))
        weight, bias = (None if grad is None else np.array(grad) for grad in found)
        return np.array(grad_input), weight, bias
