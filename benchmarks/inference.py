"""Predictions of the reference network: the latency of one sample, the throughput of many."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import network, report, targets
from benchmarks.contenders import ENGINES, modules
from benchmarks.harness import Entry, Team

WORK = "predict"
problem, prove = network.draw_trained, network.prove_prediction
BATCHES = (1, 16, 256, 4096)
CONTENDERS = (*ENGINES, "torch eager", "torch.compile", "onnxruntime")


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write inference.json, .md and .png into `out`."""
    contenders = report.without_compile(CONTENDERS) if quick else CONTENDERS
    contests = []
    for count in threads:
        with Team(__name__, modules(*contenders), count) as team:
            for batch in BATCHES[:3] if quick else BATCHES:
                case = {"batch": batch, "batch_norm": True, "width": 256}
                entries = {name: Entry(name, case) for name in contenders}
                contests.append(team.contest({"batch": batch}, entries, 3 if quick else 31))
                report.progress(f"batch {batch}", contests[-1])
    report.write(out, "inference", contests, markdown(contests, contenders), draw)


def markdown(contests: list[dict[str, Any]], contenders: tuple[str, ...]) -> str:
    """Return the tables."""
    parts = [targets.table(goals(contests)), report.losses(contests, contenders)]
    for (count,) in report.distinct(contests, "threads"):
        rows = {str(c["batch"]): c for c in contests if c["threads"] == count}
        title = f"Latency, eval mode, {report.threads(count)}"
        parts.append(report.times_and_ratios(title, "batch", rows, contenders))
        lines = [[row, *(throughput(c, name) for name in contenders)] for row, c in rows.items()]
        parts.append(report.table(["batch, samples a second", *contenders], lines))
    return "\n".join(parts)


def throughput(contest: dict[str, Any], name: str) -> str:
    """Return the samples a second at the median time."""
    seconds = contest["seconds"].get(name)
    return report.three_digits(contest["batch"] / np.median(seconds)) if seconds else "-"


def goals(contests: list[dict[str, Any]]) -> list[targets.Goal]:
    """Return the targets with what was measured."""
    found: list[targets.Goal] = []
    for (count,) in report.distinct(contests, "threads"):
        goal = targets.Goals(found, ENGINES[0], report.threads(count))
        ratio = report.median(contests, ENGINES[0], "torch eager", batch=1, threads=count)
        goal.faster("latency of 1", "torch inference_mode", *targets.ONE_IMAGE, ratio)
    return found


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw latency and throughput against the batch size."""
    from benchmarks import pictures

    counts = [count for (count,) in report.distinct(contests, "threads")]
    figure, panels = pictures.panels(len(counts), 2, share_y=False)
    for (left, right), count in zip(panels, counts, strict=True):
        these = [c for c in contests if c["threads"] == count]
        batches = [c["batch"] for c in these]
        pictures.absolute(left, batches, these, CONTENDERS, [1] * len(batches))
        pictures.absolute(right, batches, these, CONTENDERS, batches)
        left.set(title=f"latency, {report.threads(count)}", ylabel="µs")
        right.set(title=f"time per sample, {report.threads(count)}", ylabel="µs")
        for axes in (left, right):
            pictures.plain_ticks(axes, batches)
    figure.supxlabel("samples in the batch")
    pictures.save(figure, panels, path)
