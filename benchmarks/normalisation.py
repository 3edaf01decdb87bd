"""BatchNorm alone as a problem to solve: its data, and the results in plain float64."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.task import Task, WrongError
from npbn.testing import tolerances
from npbn.testing.case import Setup, Step
from npbn.testing.oracle import Exact

MODES = ("forward", "forward + backward", "eval")
PLAIN, SHIFTED, DEAD = DATA = ("plain", "mean = 3 std", "one dead channel")
PROVED = 64  # channels, evenly spread: all of the largest would take longer than the timing
RESULTS = {
    "forward": ("y", "running_mean", "running_var"),
    "forward + backward": (
        *("y", "running_mean", "running_var"),
        *("grad_input", "grad_weight", "grad_bias"),
    ),
    "eval": ("y",),
}


class Problem(NamedTuple):
    """A layer, a batch and what to do with it: `mode`, one of MODES."""

    setup: Setup
    step: Step
    mode: str

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The input and the upstream gradient."""
        return self.step.x, self.step.grad_output


def problem(case: Mapping[str, Any]) -> Problem:
    """Draw what a case describes: ``shape``, ``dtype``, ``data`` and ``mode``.

    The same every time. Channels have a standard deviation of 0.5 to 2 and a mean of 0, or of
    3 standard deviations; a dead channel has one value, 0.7, throughout. The running statistics
    are those that the data are drawn from.
    """
    shape, dtype = tuple(case["shape"]), np.dtype(case["dtype"])
    rng = np.random.default_rng(shape)
    channels, along = shape[1], (-1, *(1,) * (len(shape) - 2))
    std = rng.uniform(0.5, 2, channels)
    mean = 3 * std if case["data"] == SHIFTED else np.zeros(channels)
    weight, bias = rng.uniform(0.5, 1.5, channels), rng.normal(size=channels)
    x = rng.standard_normal(shape, dtype)
    x *= std.astype(dtype).reshape(along)
    x += mean.astype(dtype).reshape(along)
    if case["data"] == DEAD:
        x[:, channels // 2] = mean[channels // 2] = 0.7
        std[channels // 2] = 0
    vectors = (values.astype(dtype) for values in (weight, bias, mean, std**2))
    setup = Setup(channels, 1e-5, 0.1, *vectors, dtype=dtype)
    g = rng.standard_normal(shape, dtype)
    return Problem(setup, Step(x, case["mode"] != "eval", g), case["mode"])


def state_of(setup: Setup) -> dict[str, np.ndarray]:
    """Return a layer's state_dict, without ``num_batches_tracked``."""
    names = ("weight", "bias", "running_mean", "running_var")
    return {name: getattr(setup, name) for name in names}


def prove(problem: Problem, task: Task) -> None:
    """Run once and compare with float64, of up to 64 channels.

    The tolerance is :func:`npbn.testing.tolerances.correct`: what a right implementation may
    lose in straightforward arithmetic.

    Raises
    ------
    WrongError
    """
    results = task.read(task.run())
    channels = problem.setup.num_features
    some = np.unique(np.linspace(0, channels - 1, PROVED).astype(int))
    some = np.union1d(some, [channels // 2])  # the dead one
    vectors = {name: values[some] for name, values in state_of(problem.setup).items()}
    setup = Setup(
        len(some), problem.setup.eps, problem.setup.momentum, **vectors, dtype=problem.setup.dtype
    )
    step = Step(problem.step.x[:, some], problem.step.training, problem.step.grad_output[:, some])
    exact = in_float64(setup, step)
    allowed = tolerances.correct(setup, step, exact)
    for name in RESULTS[problem.mode]:
        if name not in results:
            raise WrongError(f"{name} is missing")
        result = results[name]
        if result.dtype != problem.setup.dtype:
            raise WrongError(f"{name} is {result.dtype}, should be {problem.setup.dtype}")
        result = result[some] if result.ndim == 1 else result[:, some]
        error = np.abs(result.astype(np.float64) - getattr(exact, name))
        worst = float(np.max(error / getattr(allowed, name)))
        if not worst <= 1:
            raise WrongError(f"{name} is off by {worst:.2g} times what is allowed")


def in_float64(setup: Setup, step: Step) -> Exact:
    """Return the results in float64, by the textbook: the oracle is too slow for large arrays."""
    state = {name: values.astype(np.float64) for name, values in state_of(setup).items()}
    x, g = (rows_of(a.astype(np.float64)) for a in (step.x, step.grad_output))
    mean, var = state["running_mean"], state["running_var"]
    if step.training:
        mean = x.mean(0)
        var = ((x - mean) ** 2).mean(0)
        for name, new in (("mean", mean), ("var", var * len(x) / (len(x) - 1))):
            old = state[f"running_{name}"]
            state[f"running_{name}"] = old + setup.momentum * (new - old)
    std = np.sqrt(var + setup.eps)
    x_hat = (x - mean) / std
    grad_weight, grad_bias = (g * x_hat).sum(0), g.sum(0)
    grad_input = state["weight"] / std * (g - (grad_bias + x_hat * grad_weight) / len(x))
    y, x_hat, grad_input = (
        np.moveaxis(rows.reshape(len(step.x), *step.x.shape[2:], -1), -1, 1)
        for rows in (state["weight"] * x_hat + state["bias"], x_hat, grad_input)
    )
    return Exact(
        y=y,
        x_hat=x_hat,
        grad_input=grad_input,
        grad_weight=grad_weight,
        grad_bias=grad_bias,
        running_mean=state["running_mean"],
        running_var=state["running_var"],
        num_batches_tracked=0,
        mean=mean,
        var=var,
    )


def rows_of(x: np.ndarray) -> np.ndarray:
    """Return (N, C, ...) as rows of one value of each channel."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
