"""BatchNorm alone: forward in training, forward and backward, eval, over sizes and data."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import report, targets
from benchmarks.contenders import modules
from benchmarks.harness import Entry, Team
from benchmarks.task import Task, WrongError
from npbn.testing import tolerances
from npbn.testing.case import Setup, Step
from npbn.testing.oracle import Exact

WORK = "batch_norm"
MODES = ("forward", "forward + backward", "eval")
SHAPES = (
    (60, 100),
    (64, 256),
    (128, 512),
    (256, 256),
    (1024, 256),
    (1024, 1024),
    (4096, 1024),
    (16384, 1024),
)
IMAGES = ((64, 16, 28, 28), (8, 256, 14, 14), (32, 64, 28, 28))
DTYPES = ("float32", "float64")
PLAIN, SHIFTED, DEAD = DATA = ("plain", "mean = 3 std", "one dead channel")
CONTENDERS = ("npbn", "torch eager", "torch.compile", "jax.jit", "textbook NumPy", "floor")
BY_DATA = ("npbn", "torch eager")  # timed on all data; the others' speed does not depend on it
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


def entry_name(contender: str, data: str) -> str:
    """Return the name of an entry: the contender, and the data unless they are plain."""
    return contender if data == PLAIN else f"{contender}, {data}"


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write batch_norm.json, .md and .png into `out`."""
    contenders = report.without_compile(CONTENDERS) if quick else CONTENDERS
    shapes = (*SHAPES[1:5:3], *IMAGES[:1]) if quick else (*SHAPES, *IMAGES)
    dtypes = DTYPES[:1] if quick else DTYPES
    contests = []
    for count in threads:
        with Team(__name__, modules(*contenders), count) as team:
            for dtype, mode, shape in product(dtypes, MODES, shapes):
                about = {"shape": list(shape), "dtype": dtype, "mode": mode}
                entries = {
                    entry_name(name, data): Entry(name, {**about, "data": data})
                    for data in DATA
                    for name in (contenders if data == PLAIN else BY_DATA)
                }
                contests.append(team.contest(about, entries, 3 if quick else 15))
                report.progress(f"{shape} {dtype} {mode}", contests[-1])
    report.write(out, "batch_norm", contests, markdown(contests, contenders), draw)


def megabytes(contest: Mapping[str, Any]) -> float:
    """Return the size of the activations in MB, 2²⁰ bytes."""
    return int(np.prod(contest["shape"])) * np.dtype(contest["dtype"]).itemsize / 2**20


def markdown(contests: list[dict[str, Any]], contenders: tuple[str, ...]) -> str:
    """Return the tables."""
    parts = [targets.table(goals(contests))]
    for count, dtype, mode in report.distinct(contests, "threads", "dtype", "mode"):
        these = [
            c for c in contests if (c["threads"], c["dtype"], c["mode"]) == (count, dtype, mode)
        ]
        title = f"{mode}, {dtype}, {report.threads(count)}"
        rows = {f"{tuple(c['shape'])}": c for c in these}
        parts.append(report.times_and_ratios(title, "shape", rows, contenders))
        parts.append(by_data(rows))
    return "\n".join(parts)


def by_data(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the time on other data, in that on plain data."""
    names = [(name, data) for name in BY_DATA for data in (SHIFTED, DEAD)]
    lines = []
    for row, contest in rows.items():
        cells = (report.ratio_cell(contest, name, entry_name(name, data)) for name, data in names)
        lines.append([row, *cells])
    head = ["time relative to plain data", *(entry_name(*pair) for pair in names)]
    return report.table(head, lines)


def goals(contests: list[dict[str, Any]]) -> list[targets.Goal]:
    """Return the targets in float32 with what was measured."""
    found = []
    for count in sorted({c["threads"] for c in contests}):
        mine = [c for c in contests if c["threads"] == count and c["dtype"] == "float32"]
        images = [c for c in mine if len(c["shape"]) == 4]
        mine = [c for c in mine if len(c["shape"]) == 2]
        small = [c for c in mine if megabytes(c) <= 1]
        large = [c for c in mine if megabytes(c) > 1]
        goal = targets.Goals(found, report.threads(count))
        for mode, at_least in (("forward + backward", 0.8), ("forward", 0.7), ("eval", 0.8)):
            ratios = report.ratios(small, "npbn", "torch eager", mode=mode)
            if mode == "forward + backward":
                what = f"{mode}, up to 1 MB, geometric mean"
                goal.faster(what, "torch eager", 1.0, 1.3, targets.geometric_mean(ratios))
            aim = {"forward + backward": 1.0, "forward": 1.0, "eval": 1.2}[mode]
            what = f"{mode}, up to 1 MB, the least"
            goal.faster(what, "torch eager", at_least, aim, min(ratios, default=None))
        for mode, at_least in (("forward + backward", 0.8), ("forward", 0.6), ("eval", 0.6)):
            ratios = report.ratios(large, "npbn", "torch eager", mode=mode)
            what = f"{mode}, beyond 1 MB, the least"
            goal.faster(what, "torch eager", at_least, 1.0, min(ratios, default=None))
        for mode in ("forward + backward", "forward"):
            ratios = report.ratios(images, "npbn", "torch eager", mode=mode)
            goal.faster(
                f"{mode}, images, the least", "torch eager", 1.0, 1.0, min(ratios, default=None)
            )
        for data in (SHIFTED, DEAD):
            ratios = report.ratios(mine, "npbn", entry_name("npbn", data))
            goal.within(
                f"{data}, the worst", "npbn on plain data", 1.3, 1.1, max(ratios, default=None)
            )
    return found


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw the time of the others in npbn's, against the size of (N, C), by mode and dtype."""
    from benchmarks import pictures

    contests = [c for c in contests if len(c["shape"]) == 2]
    count = min(c["threads"] for c in contests)
    dtypes = [dtype for (dtype,) in report.distinct(contests, "dtype")]
    figure, panels = pictures.panels(len(dtypes), len(MODES))
    for axes, (dtype, mode) in zip(panels.flat, product(dtypes, MODES), strict=True):
        these = [
            c for c in contests if (c["threads"], c["dtype"], c["mode"]) == (count, dtype, mode)
        ]
        these.sort(key=megabytes)
        pictures.relative(axes, [megabytes(c) for c in these], these, "npbn", CONTENDERS[1:])
        axes.set(title=f"{mode}, {dtype}")
    figure.supxlabel("activations, MB")
    figure.supylabel(f"time in npbn's ({report.threads(count)})")
    pictures.save(figure, panels, path)
