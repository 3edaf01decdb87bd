"""How a training step's time grows with the batch size, with the width, and with MPI ranks."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import network, report
from benchmarks.contenders import ENGINES, modules
from benchmarks.harness import Entry, Team
from benchmarks.ranks import measure

WORK = "train_step"
problem, prove = network.draw, network.prove_training
CONTENDERS = (*ENGINES, "torch eager")
BATCH, WIDTH = 64, 256  # of the sweep over the other
SWEEPS = {
    "batch": (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    "width": (64, 128, 256, 512, 1024, 2048),
}
TITLES = {"batch": f"batch size (width {WIDTH})", "width": f"width (batch {BATCH})"}


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write scaling.json, .md and .png into `out`; then ranks.json, .md and .png."""
    contests = []
    for count in threads:
        with Team(__name__, modules(*CONTENDERS), count) as team:
            for sweep, sizes in SWEEPS.items():
                for size in sizes[:4] if quick else sizes:
                    case = {"batch": BATCH, "width": WIDTH, sweep: size, "batch_norm": True}
                    entries = {name: Entry(name, case) for name in CONTENDERS}
                    about = {"sweep": sweep, "size": size, "batch": case["batch"]}
                    contests.append(team.contest(about, entries, 3 if quick else 15))
                    report.progress(f"{sweep} {size}", contests[-1])
    report.write(out, "scaling", contests, markdown(contests), draw)
    measure.run(out, quick)


def halves(xs: list[int]) -> tuple[slice, slice]:
    """Return the points that exponents are fitted to: the smaller half, and the larger."""
    middle = len(xs) // 2
    return slice(0, len(xs) - middle), slice(middle, len(xs))


def points(contests: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Return sizes and the median seconds per sample."""
    timed = [c for c in contests if c["seconds"].get(name)]
    return [c["size"] for c in timed], [
        float(np.median(c["seconds"][name])) / c["batch"] for c in timed
    ]


def exponent(xs: list[int], ys: list[float]) -> float:
    """Return k of the fit y = a · x^k, by least squares on the logarithms."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def markdown(contests: list[dict[str, Any]]) -> str:
    """Return the tables."""
    parts = [report.losses(contests, CONTENDERS)]
    for count, sweep in report.distinct(contests, "threads", "sweep"):
        these = [c for c in contests if (c["threads"], c["sweep"]) == (count, sweep)]
        title = f"Step against {TITLES[sweep]}, {report.threads(count)}"
        rows = {str(c["size"]): c for c in these}
        parts.append(report.times_and_ratios(title, sweep, rows, CONTENDERS))
        lines = []
        for name in CONTENDERS:
            xs, ys = points(these, name)
            for half in halves(xs):
                if len(xs[half]) > 1:
                    fitted = f"{sweep} {xs[half][0]} to {xs[half][-1]}"
                    lines.append([name, fitted, f"{exponent(xs[half], ys[half]):.2f}"])
        head = ["time per sample ~ size^k", "points of the fit", "k"]
        parts.append(report.table(head, lines))
    return "\n".join(parts)


def draw(contests: list[dict[str, Any]], path: Path) -> None:
    """Draw the time per sample, with the line fitted to the larger half."""
    from benchmarks import pictures

    counts = [count for (count,) in report.distinct(contests, "threads")]
    figure, panels = pictures.panels(len(counts), len(SWEEPS), share_x=False)
    for row, count in zip(panels, counts, strict=True):
        for axes, sweep in zip(row, SWEEPS, strict=True):
            these = [c for c in contests if (c["threads"], c["sweep"]) == (count, sweep)]
            sizes = [c["size"] for c in these]
            batches = [c["batch"] for c in these]
            pictures.absolute(axes, sizes, these, CONTENDERS, batches)
            for i, name in enumerate(CONTENDERS):
                xs, ys = points(these, name)
                half = halves(xs)[1]
                if len(xs[half]) > 1:
                    pictures.fit(axes, name, i, xs[half], ys[half], exponent(xs[half], ys[half]))
            axes.set(title=report.threads(count), xlabel=TITLES[sweep])
            pictures.plain_ticks(axes, sizes[::2] if len(sizes) > 6 else sizes)
    figure.supylabel("training step, µs per sample")
    pictures.save(figure, panels, path)
