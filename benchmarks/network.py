"""The reference network as a problem to solve: its data, and a step of it in plain float64.

784-256-256-10, with BatchNorm or without, as :class:`npbn.MLP` describes it. The reference here
owes nothing to npbn's kernels: it is the textbook's equations, and what every contender has to
agree with before it is timed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import npbn
from benchmarks.task import Task, WrongError

INPUTS, CLASSES = 784, 10
LEARNING_RATE = 0.01
EPS, MOMENTUM = 1e-5, 0.1
TOLERANCE = 1e-3  # relative, in norm: float32 rounding is near 1e-5, wrong equations above 1e-2
# In a float32 step, inputs of a few ReLU round to the other side of 0, and their gradients flow
# in one version and not in the other. A gradient is a sum of N · width terms of random sign, so
# that one term is 1 / sqrt(N · width) of it.
FLIPS = 4
STEPS = 3  # of training that are compared

State = dict[str, np.ndarray]


class Problem(NamedTuple):
    """A network and a batch.

    Attributes
    ----------
    state : dict
        The initial ``state_dict``, without ``num_batches_tracked``.
    x : ndarray, shape (N, 784), float32
    target : ndarray, shape (N,), int64
    batch_norm : bool
    width : int
        Of the two hidden layers.
    """

    state: State
    x: np.ndarray
    target: np.ndarray
    batch_norm: bool
    width: int


def draw(case: Mapping[str, Any]) -> Problem:
    """Draw what a case describes: ``batch``, ``batch_norm`` and ``width``; the same every time."""
    rng = np.random.default_rng([case["batch"], case["width"], case["batch_norm"]])
    net = npbn.MLP(INPUTS, case["width"], CLASSES, case["batch_norm"], rng=rng)
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    x = rng.random((case["batch"], INPUTS), np.float32)
    target = rng.integers(0, CLASSES, case["batch"])
    return Problem(state, x, target, case["batch_norm"], case["width"])


def draw_trained(case: Mapping[str, Any]) -> Problem:
    """Draw the same with vectors such as training leaves behind, for predictions."""
    problem = draw(case)
    rng = np.random.default_rng(case["batch"])
    for values in problem.state.values():
        if values.ndim == 1:
            values += rng.uniform(-0.5, 0.5, values.shape)
    return problem


def double(state: State) -> State:
    """Return a float64 copy."""
    return {name: values.astype(np.float64) for name, values in state.items()}


def train_step(state: State, x: np.ndarray, target: np.ndarray, batch_norm: bool) -> float:
    """Take one step of SGD in the dtype of `state`, in place; return the loss before it."""
    grads: State = {}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def linear_backward(g: np.ndarray, x: np.ndarray, name: str) -> np.ndarray:
        grads[f"{name}.weight"] = g.T @ x
        if f"{name}.bias" in state:
            grads[f"{name}.bias"] = g.sum(0)
        return g @ state[f"{name}.weight"]

    def norm(x: np.ndarray, name: str) -> tuple[np.ndarray, Any]:
        if not batch_norm:
            return x, None
        mean, var = x.mean(0), x.var(0)
        for key, new in (("mean", mean), ("var", var * len(x) / (len(x) - 1))):
            old = state[f"{name}.running_{key}"]
            old += MOMENTUM * (new - old)
        std = np.sqrt(var + EPS)
        x_hat = (x - mean) / std
        return x_hat * state[f"{name}.weight"] + state[f"{name}.bias"], (x_hat, std)

    def norm_backward(g: np.ndarray, cache: Any, name: str) -> np.ndarray:
        if not batch_norm:
            return g
        x_hat, std = cache
        grads[f"{name}.weight"], grads[f"{name}.bias"] = (g * x_hat).sum(0), g.sum(0)
        g = g * state[f"{name}.weight"]
        return (g - g.mean(0) - x_hat * (g * x_hat).mean(0)) / std

    a1, cache1 = norm(linear(x, "fc1"), "batch_norm1")
    h1 = np.maximum(a1, 0)
    h2, cache2 = norm(linear(h1, "fc2"), "batch_norm2")
    logits = linear(h2, "fc3")

    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(x))
    g = np.exp(log_p)
    g[rows, target] -= 1

    g = linear_backward(g / len(x), h2, "fc3")
    g = linear_backward(norm_backward(g, cache2, "batch_norm2"), h1, "fc2")
    linear_backward(norm_backward(g * (a1 > 0), cache1, "batch_norm1"), x, "fc1")
    for name, grad in grads.items():
        state[name] -= LEARNING_RATE * grad
    return float(-log_p[rows, target].mean())


def predict(state: State, x: np.ndarray, batch_norm: bool) -> np.ndarray:
    """Return the logits of eval mode, in the dtype of `state`."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        if not batch_norm:
            return x
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + EPS)
        return (x - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    h1 = np.maximum(norm(linear(x, "fc1"), "batch_norm1"), 0)
    return linear(norm(linear(h1, "fc2"), "batch_norm2"), "fc3")


def prove_training(problem: Problem, task: Task) -> None:
    """Run three steps and compare loss, parameters and running statistics with float64.

    Of every array the *change* is compared, in norm: ``|change - exact change|`` may be a
    thousandth of ``|exact change|``, plus what rounding the array three times to float32 costs,
    plus, for parameters, a few terms of the gradient.

    Raises
    ------
    WrongError
    """
    exact = double(problem.state)
    for _ in range(STEPS):
        loss = train_step(exact, problem.x.astype(np.float64), problem.target, problem.batch_norm)
        outcome = task.run()
    results = task.read(outcome)
    compare("loss", results["loss"], np.float64(loss), TOLERANCE * abs(loss))
    eps = float(np.finfo(np.float32).eps)
    for name, start in problem.state.items():
        if name not in results:
            raise WrongError(f"{name} is missing")
        if results[name].dtype != np.float32:
            raise WrongError(f"{name} is {results[name].dtype}, should be float32")
        change = np.linalg.norm(exact[name] - start)
        flips = 0 if "running" in name else FLIPS / np.sqrt(len(problem.x) * problem.width)
        allowed = (TOLERANCE + flips) * change + STEPS * eps * np.linalg.norm(exact[name])
        compare(name, results[name], exact[name], allowed)


def prove_prediction(problem: Problem, task: Task) -> None:
    """Compare the logits, in norm, with those of float64.

    Raises
    ------
    WrongError
    """
    exact = predict(double(problem.state), problem.x.astype(np.float64), problem.batch_norm)
    logits = task.read(task.run())["logits"]
    compare("logits", logits, exact, TOLERANCE * float(np.linalg.norm(exact)))


def compare(name: str, result: np.ndarray, exact: np.ndarray, allowed: float) -> None:
    """Raise WrongError where the norm of the difference exceeds what is allowed."""
    if np.shape(result) != np.shape(exact):
        raise WrongError(f"{name} has shape {np.shape(result)}, should be {np.shape(exact)}")
    difference = float(np.linalg.norm(np.asarray(result, np.float64) - exact))
    if not difference <= allowed:
        raise WrongError(f"{name} is off by {difference:.2g} in norm, allowed is {allowed:.2g}")
