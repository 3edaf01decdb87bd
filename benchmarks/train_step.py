"""A training step of the reference network, with BatchNorm and without, over batch sizes."""

from pathlib import Path
from typing import Any

from benchmarks import network, report, targets
from benchmarks.contenders import ENGINES, modules
from benchmarks.harness import Entry, Team

WORK = "train_step"
problem, prove = network.draw, network.prove_training
BATCHES = (16, 64, 256, 1024, 4096)
CONTENDERS = (*ENGINES, "torch eager", "torch.compile", "jax.jit", "MyGrad", "thinc", "floor")
NETWORKS = {True: "with BatchNorm", False: "without BatchNorm"}


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write train_step.json, .md and .png into `out`."""
    contenders = report.without_compile(CONTENDERS) if quick else CONTENDERS
    contests = []
    for count in threads:
        with Team(__name__, modules(*contenders), count) as team:
            for batch_norm in NETWORKS:
                for batch in BATCHES[1:3] if quick else BATCHES:
                    about = {"batch": batch, "batch_norm": batch_norm}
                    case = {**about, "width": 256}
                    entries = {name: Entry(name, case) for name in contenders}
                    contests.append(team.contest(about, entries, 3 if quick else 21))
                    report.progress(f"batch {batch} {NETWORKS[batch_norm]}", contests[-1])
    report.write(out, "train_step", contests, markdown(contests, contenders), draw)


def markdown(contests: list[dict[str, Any]], contenders: tuple[str, ...]) -> str:
    """Return the tables."""
    parts = [targets.table(goals(contests)), report.losses(contests, contenders)]
    for count, batch_norm in report.distinct(contests, "threads", "batch_norm"):
        these = [c for c in contests if (c["threads"], c["batch_norm"]) == (count, batch_norm)]
        title = f"{NETWORKS[batch_norm]}, {report.threads(count)}"
        rows = {str(c["batch"]): c for c in these}
        parts.append(report.times_and_ratios(title, "batch", rows, contenders))
    return "\n".join(parts)


def goals(contests: list[dict[str, Any]]) -> list[targets.Goal]:
    """Return the targets, which are of the network with BatchNorm, with what was measured."""
    found: list[targets.Goal] = []
    compiled, numpy = ENGINES
    for count in sorted({c["threads"] for c in contests}):
        mine = [c for c in contests if c["threads"] == count and c["batch_norm"]]
        goal = targets.Goals(found, compiled, report.threads(count))
        for other, step in (("torch eager", targets.STEP), ("jax.jit", targets.STEP_JAX)):
            for batch, bounds in step.items():
                ratio = report.median(mine, compiled, other, batch=batch)
                goal.faster(f"batch {batch}", other, *bounds, ratio)
        goal = targets.Goals(found, numpy, report.threads(count))
        for batch in (16, 64, 256):
            ratio = report.median(mine, numpy, "torch eager", batch=batch)
            aim = targets.NUMPY_STEP
            goal.faster(f"batch {batch}", "torch eager", aim, aim, ratio)
    return found


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw the time per sample against the batch size."""
    from benchmarks import pictures

    counts = [count for (count,) in report.distinct(contests, "threads")]
    figure, panels = pictures.panels(len(counts), 2)
    for row, count in zip(panels, counts, strict=True):
        for axes, (batch_norm, title) in zip(row, NETWORKS.items(), strict=True):
            these = [c for c in contests if (c["threads"], c["batch_norm"]) == (count, batch_norm)]
            batches = [c["batch"] for c in these]
            pictures.absolute(axes, batches, these, CONTENDERS, batches)
            axes.set(title=f"{title}, {report.threads(count)}")
            pictures.plain_ticks(axes, batches)
    figure.supxlabel("batch size")
    figure.supylabel("training step, µs per sample")
    pictures.save(figure, panels, path)
