"""How the pictures look, in daylight and in the dark."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from examples.lab.experiment import Record, experiment

matplotlib.use("Agg")  # files alone, no window
from matplotlib import pyplot as plt

# Okabe and Ito's hues, which everyone tells apart, in tones that stand out from white and black.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#2b87c8", "#d9631e", "#1f9e77", "#b069c9", "#808080"
WITH, WITHOUT = BLUE, ORANGE  # BatchNorm

# A column of a telephone: 4.8 inches are 460 points of a page, and text stays legible.
WIDTH = 4.8
STYLE = {
    "figure.figsize": (WIDTH, 3.4),
    "figure.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
}
_DARK = "#e4e4e4"  # text on the page's dark background
SCHEMES = {
    "light": {"figure.facecolor": "#ffffff", "axes.facecolor": "#ffffff"},
    "dark": {
        "figure.facecolor": "#16181c",
        "axes.facecolor": "#16181c",
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _DARK
        ),
    },
}


class Rendered(NamedTuple):
    """A picture as PNG files, for a light page and for a dark one."""

    name: str
    alt: str
    light: bytes
    dark: bytes


def render(name: str, records: list[Record]) -> list[Rendered]:
    """Draw the pictures of an experiment."""
    drawn: dict[str, list[bytes]] = {}
    for scheme in SCHEMES.values():
        with matplotlib.rc_context({**STYLE, **scheme}):
            pictures = experiment(name).pictures(records)
            for picture in pictures:
                file = io.BytesIO()
                # No date and no version: the same results give the same file.
                picture.figure.savefig(file, format="png", metadata={"Software": None})
                plt.close(picture.figure)
                drawn.setdefault(picture.name, []).append(file.getvalue())
    return [Rendered(p.name, p.alt, *drawn[p.name]) for p in pictures]


def median_and_spread(
    ax: Axes, x: Sequence[float], values: Sequence[Sequence[float]], color: str, label: str
) -> None:
    """Draw the median over seeds, and the range of all of them as a band.

    `values` has a row for each seed; NaN leaves a gap.
    """
    values = np.array(values, float)
    with np.errstate(all="ignore"):
        if not np.isfinite(values).all(axis=0).any():  # an axis cannot be scaled to nothing
            ax.plot([], [], color=color, label=label, lw=1.5)
            return
        ax.plot(x, np.median(values, axis=0), color=color, label=label, lw=1.5)
        ax.fill_between(
            x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.25, linewidth=0
        )
