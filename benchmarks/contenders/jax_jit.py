"""JAX: one jitted function for the whole of each piece of work, its old state donated."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import network
from benchmarks import normalisation as bn
from benchmarks.task import Task

jax.config.update("jax_enable_x64", True)  # float32 stays float32
# Work is done in the calling thread, which a waiting caller gets sooner: 3 % at a layer's size.
jax.config.update("jax_cpu_enable_async_dispatch", False)

Tree = dict[str, jax.Array]
ready = jax.block_until_ready


def normalise(
    x: jax.Array, state: Tree, prefix: str, momentum: float, eps: float
) -> tuple[jax.Array, Tree]:
    """Return the output of training mode, and the new running statistics."""
    axes, count = (0, *range(2, x.ndim)), x.size // x.shape[1]
    mean, var = x.mean(axes), x.var(axes)
    unbiased = var * (count / (count - 1))
    old_mean, old_var = state[f"{prefix}running_mean"], state[f"{prefix}running_var"]
    new = {
        f"{prefix}running_mean": (1 - momentum) * old_mean + momentum * mean,
        f"{prefix}running_var": (1 - momentum) * old_var + momentum * unbiased,
    }
    scale = state[f"{prefix}weight"] * jax.lax.rsqrt(var + eps)
    mean, scale, bias = along(x, mean, scale, state[f"{prefix}bias"])
    return (x - mean) * scale + bias, new


def along(x: jax.Array, *vectors: jax.Array) -> list[jax.Array]:
    """Return (C,) vectors along axis 1 of x."""
    return [vector.reshape(-1, *(1,) * (x.ndim - 2)) for vector in vectors]


def normalise_eval(x: jax.Array, state: Tree, prefix: str, eps: float) -> jax.Array:
    """Return the output of eval mode."""
    scale = state[f"{prefix}weight"] * jax.lax.rsqrt(state[f"{prefix}running_var"] + eps)
    mean, scale, bias = along(x, state[f"{prefix}running_mean"], scale, state[f"{prefix}bias"])
    return (x - mean) * scale + bias


def split(state: Tree) -> tuple[Tree, Tree]:
    """Return the parameters, and the running statistics."""
    running = {name: values for name, values in state.items() if "running" in name}
    return {name: values for name, values in state.items() if name not in running}, running


def batch_norm(problem: bn.Problem) -> Task:
    """Return the layer at work."""
    setup, mode = problem.setup, problem.mode
    x, g = (jnp.asarray(array) for array in problem.arrays)
    parameters, running = split({k: jnp.asarray(v) for k, v in bn.state_of(setup).items()})
    layer = partial(normalise, prefix="", momentum=setup.momentum, eps=setup.eps)

    @partial(jax.jit, donate_argnums=1)
    def forward(parameters: Tree, running: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        return layer(x, parameters | running)

    @partial(jax.jit, donate_argnums=1)
    def train(parameters: Tree, running: Tree, x: jax.Array, g: jax.Array) -> Any:
        def output(parameters: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
            return layer(x, parameters | running)

        y, pull, new = jax.vjp(output, parameters, x, has_aux=True)
        return y, new, *pull(g)

    @jax.jit
    def evaluate(parameters: Tree, running: Tree, x: jax.Array) -> jax.Array:
        return normalise_eval(x, parameters | running, "", setup.eps)

    def run_forward() -> dict[str, Any]:
        nonlocal running
        y, running = ready(forward(parameters, running, x))
        return {"y": y, **running}

    def run_train() -> dict[str, Any]:
        nonlocal running
        y, running, grads, grad_input = ready(train(parameters, running, x, g))
        grads = {f"grad_{name}": grad for name, grad in grads.items()}
        return {"y": y, **running, **grads, "grad_input": grad_input}

    def run_evaluate() -> dict[str, Any]:
        return {"y": ready(evaluate(parameters, running, x))}

    runs = {"forward": run_forward, "forward + backward": run_train, "eval": run_evaluate}
    return Task(runs[mode], read)


def read(results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return NumPy copies: the next run may donate what is read."""
    return {name: np.array(values) for name, values in results.items()}


def linear(x: jax.Array, state: Tree, name: str) -> jax.Array:
    """Return a linear layer's output."""
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def train_step(problem: network.Problem) -> Task:
    """Return a step of training."""
    parameters, running = split({k: jnp.array(v) for k, v in problem.state.items()})
    x, target = jnp.asarray(problem.x), jnp.asarray(problem.target)
    norm = partial(normalise, momentum=network.MOMENTUM, eps=network.EPS)

    def loss_of(parameters: Tree, running: Tree, x: Any, target: Any) -> tuple[jax.Array, Tree]:
        state, new = parameters | running, {}
        h = linear(x, state, "fc1")
        if problem.batch_norm:
            h, new = norm(h, state, "batch_norm1.")
        h = linear(jax.nn.relu(h), state, "fc2")
        if problem.batch_norm:
            h, more = norm(h, state, "batch_norm2.")
            new |= more
        log_p = jax.nn.log_softmax(linear(h, state, "fc3"))
        return -jnp.take_along_axis(log_p, target[:, None], axis=1).mean(), new

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters: Tree, running: Tree, x: Any, target: Any) -> tuple[Tree, Tree, Any]:
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, new), grads = value_and_grad(parameters, running, x, target)
        updated = {k: p - network.LEARNING_RATE * grads[k] for k, p in parameters.items()}
        return updated, new, loss

    def run() -> float:
        nonlocal parameters, running
        parameters, running, loss = ready(step(parameters, running, x, target))
        return float(loss)

    return Task(run, lambda loss: read({**parameters, **running, "loss": np.float64(loss)}))
