"""Convolution, alone and in a network: Conv2d with a 3x3 kernel, a step of the CNN, and memory."""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import report, targets
from benchmarks.contenders import ENGINES, modules
from benchmarks.footprint import megabytes, python
from benchmarks.harness import Entry, Team
from benchmarks.memory import RESET
from benchmarks.network import compare
from benchmarks.task import Task, WrongError

WORK = "conv2d"
MODES = ("forward", "forward + backward")
SHAPES = (
    ((64, 16, 28, 28), 32),
    ((64, 1, 28, 28), 16),
    ((64, 16, 14, 14), 32),
    ((8, 64, 56, 56), 64),
)
BATCHES = (16, 64, 256)  # of the network
CONTENDERS = (*ENGINES, "torch eager", "torch.compile")
LARGE = {"shape": [256, 64, 56, 56], "outputs": 64, "mode": "forward + backward"}
TOLERANCE = 1e-4  # relative, in norm: float32 rounding is near 1e-6, a wrong tap near 1e-1
EXPLANATION = (
    f"{report.EXPLANATION} Memory: physical memory of a process of its own, one thread. Input and "
    "upstream gradient are there before; the pass's own is its peak over that, of which output and "
    "gradient of the input, the activations, cannot be done without. MB are 2²⁰ bytes."
)


class Problem(NamedTuple):
    """A batch of images, 3x3 kernels without bias, padding 1, and what to do: one of MODES."""

    x: np.ndarray
    weight: np.ndarray
    grad_output: np.ndarray
    mode: str


def problem(case: Mapping[str, Any]) -> Problem:
    """Draw what a case describes: ``shape``, ``outputs`` and ``mode``; the same every time."""
    samples, channels, *size = case["shape"]
    rng = np.random.default_rng(samples)
    x = rng.standard_normal((samples, channels, *size), np.float32)
    weight = rng.standard_normal((case["outputs"], channels, 3, 3), np.float32)
    grad_output = rng.standard_normal((samples, case["outputs"], *size), np.float32)
    return Problem(x, weight / np.float32(3 * np.sqrt(channels)), grad_output, case["mode"])


def prove(problem: Problem, task: Task) -> None:
    """Run once and compare with the definition's sums in float64, in norm.

    Raises
    ------
    WrongError
    """
    results = task.read(task.run())
    for name, exact in in_float64(problem).items():
        if name == "y" or problem.mode != MODES[0]:
            if name not in results:
                raise WrongError(f"{name} is missing")
            if results[name].dtype != np.float32:
                raise WrongError(f"{name} is {results[name].dtype}, should be float32")
            compare(name, results[name], exact, TOLERANCE * float(np.linalg.norm(exact)))


def in_float64(problem: Problem) -> dict[str, np.ndarray]:
    """Return output and gradients, tap by tap."""
    x, weight, g = (array.astype(np.float64) for array in problem[:3])
    *_, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y, grad_weight, grad_padded = np.zeros(g.shape), np.zeros(weight.shape), np.zeros(padded.shape)
    for i, j in np.ndindex(3, 3):
        seen = (slice(None), slice(None), slice(i, i + height), slice(j, j + width))
        y += np.einsum("oc,nchw->nohw", weight[:, :, i, j], padded[seen], optimize=True)
        grad_weight[:, :, i, j] = np.einsum("nohw,nchw->oc", g, padded[seen], optimize=True)
        grad_padded[seen] += np.einsum("oc,nohw->nchw", weight[:, :, i, j], g, optimize=True)
    return {"y": y, "grad_input": grad_padded[:, :, 1:-1, 1:-1], "grad_weight": grad_weight}


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write conv.json, .md and .png into `out`."""
    contenders = report.without_compile(CONTENDERS) if quick else CONTENDERS
    contests = []
    for count in threads:
        with Team(__name__, modules(*contenders), count) as team:
            for mode, (shape, outputs) in product(MODES, SHAPES[:1] if quick else SHAPES):
                about = {"shape": list(shape), "outputs": outputs, "mode": mode}
                entries = {name: Entry(name, about) for name in contenders}
                contests.append(team.contest(about, entries, 3 if quick else 15))
                report.progress(f"{shape} to {outputs}, {mode}", contests[-1])
        with Team("benchmarks.cnn", modules(*contenders), count) as team:
            for batch in BATCHES[1:2] if quick else BATCHES:
                entries = {name: Entry(name, {"batch": batch}) for name in contenders}
                contests.append(team.contest({"batch": batch}, entries, 3 if quick else 15))
                report.progress(f"CNN, batch {batch}", contests[-1])
    contests[0]["memory"] = memory(contests[0])
    report.write(out, "conv", contests, markdown(contests, contenders), draw, EXPLANATION)


def memory(contest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the bytes of LARGE as contender: moment."""
    if not RESET.exists():
        print("memory: this system does not tell a process its peak: skipped")
        return {}
    found = modules(*(name for name in CONTENDERS[:3] if name in contest["seconds"]))
    return {
        name: json.loads(python("-m", "benchmarks.memory", module, WORK, json.dumps(LARGE)))
        for name, module in found.items()
    }


def own_memory(moments: Mapping[str, int]) -> int:
    """Return the bytes that a pass takes at its peak, over input and upstream gradient."""
    return moments["peak"] - moments["ready"]


def activations() -> int:
    """Return the bytes of LARGE's output and of the gradient of its input."""
    samples, channels, height, width = LARGE["shape"]
    return samples * (channels + LARGE["outputs"]) * height * width * 4


def markdown(contests: list[dict[str, Any]], contenders: tuple[str, ...]) -> str:
    """Return the tables."""
    parts = [targets.table(goals(contests)), report.losses(contests, contenders)]
    for (count,) in report.distinct(contests, "threads"):
        mine = [c for c in contests if c["threads"] == count]
        for mode in MODES:
            rows = {
                f"{tuple(c['shape'])} to {c['outputs']}": c for c in mine if c.get("mode") == mode
            }
            title = f"Conv2d 3x3, padding 1, {mode}, {report.threads(count)}"
            parts.append(report.times_and_ratios(title, "shape", rows, contenders))
        rows = {str(c["batch"]): c for c in mine if "batch" in c}
        title = f"Training step of the CNN, {report.threads(count)}"
        parts.append(report.times_and_ratios(title, "batch", rows, contenders))
    found = contests[0]["memory"]
    if found:
        shape = f"{tuple(LARGE['shape'])} to {LARGE['outputs']}"
        parts.append(f"## Memory of Conv2d 3x3, forward and backward, {shape}\n")
        lines = [
            [
                name,
                *(megabytes(moments[key]) for key in ("imported", "ready", "peak")),
                megabytes(own_memory(moments)),
                megabytes(own_memory(moments) - activations()),
            ]
            for name, moments in found.items()
        ]
        head = ["contender", "imported", "with x and gradient", "peak", "own", "over activations"]
        parts.append(report.table(head, lines))
    return "\n".join(parts)


def goals(contests: list[dict[str, Any]]) -> list[targets.Goal]:
    """Return the targets with what was measured."""
    found: list[targets.Goal] = []
    for contest in contests:
        if contest.get("mode") == MODES[1]:
            shape = f"{tuple(contest['shape'])} to {contest['outputs']}"
            what, bounds = f"Conv2d {shape}, {MODES[1]}", targets.CONV
        elif contest.get("batch") in targets.CNN_STEP:
            batch = contest["batch"]
            what, bounds = f"CNN, a training step, batch {batch}", targets.CNN_STEP[batch]
        else:
            continue
        goal = targets.Goals(found, ENGINES[0], report.threads(contest["threads"]))
        goal.faster(
            what, "torch eager", *bounds, report.median([contest], ENGINES[0], "torch eager")
        )
    for engine in ENGINES:
        if engine in contests[0]["memory"]:
            own = own_memory(contests[0]["memory"][engine])
            limit = activations() + 16 * 2**20
            targets.Goals(found, engine, "1 thread").within(
                "memory of a large pass", "its activations and 16 MB", 1, 1, own / limit
            )
    return found


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw the times as bars, for the layer and the network."""
    from benchmarks import pictures

    count = min(c["threads"] for c in contests)
    bars = {}
    for contest in contests:
        if contest["threads"] == count:
            if "batch" in contest:
                what = f"CNN step,\nbatch {contest['batch']}, ms"
            else:
                what = f"{tuple(contest['shape'])}\nto {contest['outputs']}, {contest['mode']}, ms"
            bars[what] = {k: float(np.median(v)) * 1e3 for k, v in contest["seconds"].items()}
    pictures.bars(bars, path)
