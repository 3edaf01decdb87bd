"""What the pictures have in common; importing it imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks import report

matplotlib.use("Agg")  # files alone, no window
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

# Okabe and Ito's colours, told apart by everyone; markers for those who print in grey.
STYLES: dict[str, dict[str, Any]] = {
    "npbn numba": {"color": "#0072b2", "marker": "o"},
    "npbn numpy": {"color": "#0072b2", "marker": "o", "mfc": "none", "ls": "-."},
    "torch eager": {"color": "#d55e00", "marker": "s"},
    "torch.compile": {"color": "#e69f00", "marker": "D"},
    "jax.jit": {"color": "#cc79a7", "marker": "v"},
    "MyGrad": {"color": "#56b4e9", "marker": "P"},
    "thinc": {"color": "#999933", "marker": "X"},
    "onnxruntime": {"color": "#cc79a7", "marker": "^"},
    "textbook NumPy": {"color": "#009e73", "marker": "^"},
    "numpy": {"color": "0.6"},
    "floor": {"color": "black", "ls": "--"},
}


def style(name: str) -> dict[str, Any]:
    """Return a line's looks."""
    return {"ms": 4.5, "lw": 1.4, **STYLES[name]}


def panels(
    rows: int, columns: int, share_x: bool = True, share_y: bool = True
) -> tuple[plt.Figure, np.ndarray]:
    """Return a figure and its grid of axes."""
    return plt.subplots(
        rows,
        columns,
        figsize=(max(7, 3.4 * columns), 1.1 + 3.1 * rows),
        sharex=share_x,
        sharey=share_y,
        squeeze=False,
        layout="constrained",
    )


def relative(
    axes: plt.Axes,
    xs: Sequence[float],
    contests: Sequence[Mapping[str, Any]],
    base: str,
    others: Sequence[str],
) -> None:
    """Draw the speed of each contender in that of `base`: the median, its quartiles as a band."""
    for name in others:
        found = [(x, report.ratio(c, name, base)) for x, c in zip(xs, contests, strict=True)]
        found = [(x, quartiles) for x, quartiles in found if quartiles is not None]
        if found:
            where, quartiles = zip(*found, strict=True)
            low, median, high = np.transpose(quartiles)
            axes.plot(where, median, label=name, **style(name))
            axes.fill_between(where, low, high, color=STYLES[name]["color"], alpha=0.15, lw=0)
    axes.axhline(1, color=STYLES[base]["color"], lw=1.4, label=base)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)


def absolute(
    axes: plt.Axes,
    xs: Sequence[float],
    contests: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    per: Sequence[float],
) -> None:
    """Draw the median time in µs of each contender, divided by `per`."""
    for name in names:
        found = [
            (x, np.median(c["seconds"][name]) * 1e6 / count)
            for x, c, count in zip(xs, contests, per, strict=True)
            if c["seconds"].get(name)
        ]
        if found:
            axes.plot(*zip(*found, strict=True), label=name, **style(name))
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)


def fit(
    axes: plt.Axes, name: str, row: int, xs: Sequence[float], ys: Sequence[float], k: float
) -> None:
    """Draw y = a · x^k through the middle of the points, and write k into the free corner."""
    middle = [np.exp(np.mean(np.log(values))) for values in (xs, ys)]
    line = middle[1] * (np.array(xs) / middle[0]) ** k * 1e6
    axes.plot(xs, line, color="black", lw=1, ls=":")
    axes.text(
        0.03 if k > 0.5 else 0.97,
        0.96 - 0.08 * row,
        f"{name}: k = {k:.2f} from {xs[0]}",
        transform=axes.transAxes,
        ha="left" if k > 0.5 else "right",
        va="top",
        color=STYLES[name]["color"],
    )


def plain_ticks(axes: plt.Axes, xs: Sequence[int]) -> None:
    """Label the given sizes, and times at 1, 2 and 5, with plain numbers."""
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def bars(groups: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw a panel of horizontal bars, with their numbers, for each group."""
    rows = -(-len(groups) // 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(8, 0.4 + 1.5 * rows), squeeze=False, layout="constrained"
    )
    for axes, (title, values) in zip(grid.flat, groups.items(), strict=False):
        colours = [STYLES.get(name, STYLES["torch eager"])["color"] for name in values]
        drawn = axes.barh(list(values), list(values.values()), color=colours)
        axes.bar_label(drawn, [report.three_digits(v) for v in values.values()], padding=3)
        axes.set(title=title, xlim=(0, 1.25 * max(values.values())))
        axes.invert_yaxis()
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save(figure: plt.Figure, panels: np.ndarray, path: Path) -> None:
    """Put the legend above the panels, write the picture and forget it."""
    found: dict[str, Any] = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
