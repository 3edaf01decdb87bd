"""What the pictures have in common; importing it imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks import report

matplotlib.use("Agg")  # files alone, no window
from matplotlib import pyplot as plt

# Okabe and Ito's colours, told apart by everyone; markers for those who print in grey.
STYLES: dict[str, dict[str, Any]] = {
    "npbn": {"color": "#0072b2", "marker": "o"},
    "torch eager": {"color": "#d55e00", "marker": "s"},
    "torch.compile": {"color": "#e69f00", "marker": "D"},
    "jax.jit": {"color": "#cc79a7", "marker": "v"},
    "MyGrad": {"color": "#56b4e9", "marker": "P"},
    "thinc": {"color": "#999933", "marker": "X"},
    "onnxruntime": {"color": "#cc79a7", "marker": "^"},
    "textbook NumPy": {"color": "#009e73", "marker": "^"},
    "floor": {"color": "black", "ls": "--"},
}


def style(name: str) -> dict[str, Any]:
    """Return a line's looks."""
    return {"ms": 4.5, "lw": 1.4, **STYLES[name]}


def panels(rows: int, columns: int) -> tuple[plt.Figure, np.ndarray]:
    """Return a figure and its grid of axes."""
    return plt.subplots(
        rows,
        columns,
        figsize=(max(6, 3.4 * columns), 0.9 + 3.1 * rows),
        sharex=True,
        sharey=True,
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
    """Draw the median ratio of each contender, its quartiles as a band."""
    for name in others:
        found = [(x, report.ratio(c, base, name)) for x, c in zip(xs, contests, strict=True)]
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


def save(figure: plt.Figure, panels: np.ndarray, path: Path) -> None:
    """Put the legend above the panels, write the picture and forget it."""
    found: dict[str, Any] = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(
        found.values(), found, loc="outside upper center", ncols=min(len(found), 6), frameon=False
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
