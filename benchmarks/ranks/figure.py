"""The picture of time per step against ranks, of the exchanges, and of the model."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pictures, report
from benchmarks.pictures import plt
from benchmarks.ranks import fit, forecast, model
from benchmarks.ranks.fit import DDP, ETHERNET, PLAIN, SHARDS, SYNC, Results
from benchmarks.ranks.model import Links, Work

STYLES: dict[str, dict[str, Any]] = {
    SYNC: {"color": "#0072b2", "marker": "o"},
    PLAIN: {"color": "#56b4e9", "marker": "D"},
    DDP: {"color": "#d55e00", "marker": "s"},
    SHARDS: {"color": "0.6", "marker": "v"},
}
MODEL = {"color": "black", "ls": ":", "lw": 1.4}
KINDS = {"gather": ("#009e73", "o"), "sum": ("#cc79a7", "s")}
FUTURE_COLOURS = ("#0072b2", "#e69f00")


def draw(results: Results, path: Path) -> None:
    """Draw a panel for each size of a sweep, one for the exchanges and one for the model."""
    sweeps = report.distinct(results["steps"], "sweep", "size")
    columns = -(-(len(sweeps) + 2) // 2)
    figure, grid = plt.subplots(
        2, columns, figsize=(3.6 * columns, 7.2), squeeze=False, layout="constrained"
    )
    work, links = fit.work(results), fit.links(results)
    # The sizes of a sweep in a row, and at its end the exchanges or the model.
    for axes, (sweep, size) in zip(grid[:, :-1].flat, sweeps, strict=False):
        steps(axes, results, sweep, size, work, links)
    exchanges(grid[0, -1], results)
    prediction(grid[1, -1], results, work, links)
    for axes in grid[:, :-1].flat[len(sweeps) :]:
        axes.set_visible(False)
    pictures.save(figure, grid[:, :-1], path)


def steps(
    axes: plt.Axes,
    results: Results,
    sweep: str,
    size: int,
    work: Work | None,
    links: Links | None,
) -> None:
    """Draw the measured steps of one size, and the model's."""
    contests = [c for c in results["steps"] if (c["sweep"], c["size"]) == (sweep, size)]
    for name, look in STYLES.items():
        timed = [c for c in contests if c["seconds"].get(name)]
        if timed:
            quartiles = np.transpose(
                [np.percentile(c["seconds"][name], (25, 50, 75)) * 1e3 for c in timed]
            )
            where = [c["ranks"] for c in timed]
            axes.plot(where, quartiles[1], label=name, ms=4.5, lw=1.4, **look)
            axes.fill_between(where, quartiles[0], quartiles[2], color=look["color"], alpha=0.15)
    ranks = [c["ranks"] for c in contests]
    if work and links:
        modelled = [
            1e3 * model.step(work, links, p, forecast.samples(sweep, size, p)) for p in ranks
        ]
        axes.plot(ranks, modelled, label="model, synchronised", marker="x", **MODEL)
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="step, ms")
    axes.set_title(f"{sweep} {size}")
    axes.grid(alpha=0.3)
    pictures.plain_ticks(axes, ranks)
    if ranks[-1] > results["cpus"]:
        left, right = axes.get_xlim()
        axes.axvspan(results["cpus"] * 1.1, right, color="0.5", alpha=0.12, lw=0)
        axes.text(
            0.97, 0.03, "more ranks than CPUs", transform=axes.transAxes, ha="right", color="0.4"
        )
        axes.set_xlim(left, right)


def exchanges(axes: plt.Axes, results: Results) -> None:
    """Draw the exchanges of two ranks with the fitted lines."""
    for kind, (colour, marker) in KINDS.items():
        these = [e for e in results["exchanges"] if (e["kind"], e["ranks"]) == (kind, 2)]
        if not these:
            continue
        sizes, seconds = [e["bytes"] for e in these], [e["seconds"] for e in these]
        line = model.fit(sizes, seconds)
        speed = f"{report.duration(line.fixed)}, {report.bandwidth(line.slope)}"
        axes.plot(
            sizes, np.multiply(seconds, 1e6), marker, ms=4.5, color=colour, label=f"{kind}: {speed}"
        )
        xs = np.geomspace(sizes[0], sizes[-1], 100)
        axes.plot(xs, 1e6 * (line.fixed + line.slope * xs), color=colour, lw=1.2, ls="--")
    axes.set(xscale="log", yscale="log", xlabel="bytes of a rank", ylabel="exchange, µs")
    axes.set_title("exchanges of 2 ranks, fitted")
    axes.grid(alpha=0.3)
    if results["exchanges"]:
        axes.legend(fontsize=8, loc="upper left")


def prediction(axes: plt.Axes, results: Results, work: Work | None, links: Links | None) -> None:
    """Draw the model up to 1,000 ranks, beside the measured points."""
    axes.set_title("model up to 1,000 ranks")
    if work is None or links is None:
        axes.text(0.5, 0.5, "not fitted", transform=axes.transAxes, ha="center")
        return
    ranks = sorted({*range(1, 33), *np.geomspace(32, 1000, 60).astype(int)})
    for (sweep, size), colour in zip(forecast.FUTURES, FUTURE_COLOURS, strict=True):
        for which, look, name in (
            (links, "-", "shared memory"),
            (ETHERNET, "--", "10 GbE assumed"),
        ):
            times = [
                1e3 * model.step(work, which, p, forecast.samples(sweep, size, p)) for p in ranks
            ]
            label = f"{sweep} {size:,}, {name}"
            axes.plot(ranks, times, color=colour, ls=look, lw=1.4, label=label)
        these = [
            c
            for c in results["steps"]
            if (c["sweep"], c["size"]) == (sweep, size)
            and c["ranks"] <= results["cpus"]
            and c["seconds"].get(SYNC)
        ]
        if these:
            found = [(c["ranks"], 1e3 * fit.median(c, SYNC)) for c in these]
            axes.plot(
                *zip(*found, strict=True), "o", ms=5, color="black", label="measured", zorder=5
            )
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="step, ms")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7.5, loc="upper right")
