"""The first experiment of the first paper: a network of sigmoids, and what reaches one of them."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.drawing import WIDTH, WITH, WITHOUT, median_and_spread
from examples.lab.experiment import (
    CLASSES,
    Budget,
    Digits,
    Picture,
    Record,
    Trial,
    Verdict,
    spread,
)
from examples.lab.networks import accuracy, mlp, train

TITLE = "The first experiment of the first paper"
QUESTION = "Does BatchNorm keep what a sigmoid gets to see in place, and train better for it?"
CLAIM = (
    "with BatchNorm the network trains faster and to a higher test accuracy, and the distribution "
    "of a sigmoid's input is more stable over training"
)
SOURCE = "Ioffe and Szegedy 2015, arXiv:1502.03167, section 4.1 and figure 1"
IDEA = """
The input of a layer is the output of the layers before it, whose weights change with every step of
training. Its distribution therefore moves, and the layer has to follow; a sigmoid whose input has
moved far from 0 hardly passes a gradient. Ioffe and Szegedy called this internal covariate shift
and showed it in figure 1: three percentiles of the input of one sigmoid in the last hidden layer,
over the course of training. With BatchNorm before the sigmoids they held still, and the network
learnt faster and better.

The same network is trained here: images in black and white, three hidden layers of 100 sigmoids,
batches of 60. Part of the effect lies in the construction: mean and deviation of that input are
BatchNorm's own shift and scale, which move slowly. The paper names neither the learning rate nor
the size of the initial weights, so both are varied and all of it is shown. How far the percentiles
wander is measured against their distance from one another, and separately where the network learns
without BatchNorm too: to hold still is no feat for a network that does not learn.
"""

HIDDEN = [100, 100, 100]
BATCH = 60
PERCENTILES = (15, 50, 85)
SAMPLE = 1000  # training images, of which the percentiles are taken
UNIT = 0  # the sigmoid shown; the table has all of its layer
LEARNS = 0.8  # test accuracy from which a network has learnt
SHOWN = 12  # of the sigmoid's input; beyond ±6 it is as good as flat
FASTER, HIGHER = "faster", "higher accuracy at the end"  # the parts of the claim
STABLE = "a more stable input"
STABLE_IF = "a more stable input where the network learns without BatchNorm too"
NAMES = {True: "with BatchNorm", False: "without"}

# Learning rates, deviations of the initial weights, steps, points of measurement, seeds.
BUDGETS = {
    "quick": ((0.1, 1), (0.1, 1), 350, 10, 2),
    "default": ((0.01, 0.1, 1), (0.01, 0.1, 1), 4000, 25, 3),
    "full": ((0.01, 0.03, 0.1, 0.3, 1), (0.01, 0.1, 1), 50_000, 100, 5),
}


def trials(budget: Budget) -> list[Trial]:
    """Every learning rate with every size of the initial weights, with BatchNorm and without."""
    rates, deviations, steps, points, seeds = BUDGETS[budget]
    return [
        {"batch_norm": n, "lr": r, "deviation": d, "steps": steps, "points": points, "seed": s}
        for n, r, d, s in itertools.product((True, False), rates, deviations, range(seeds))
    ]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes."""
    step = 0.0015 if trial["batch_norm"] else 0.0008
    return step * trial["steps"] + 0.02 * trial["points"]


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return its test accuracy and the percentiles over training.

    `drift` is that of the sigmoid shown, `layer_drift` the median over all of its layer.
    """
    rng = np.random.default_rng(trial["seed"])
    digits = digits._replace(
        train_images=(digits.train_images > 0.5).astype(np.float32),
        test_images=(digits.test_images > 0.5).astype(np.float32),
    )

    def gaussian(weight: np.ndarray, rng: np.random.Generator) -> None:
        weight[...] = rng.normal(0, trial["deviation"], weight.shape)

    norm = npbn.BatchNorm1d if trial["batch_norm"] else None
    net = mlp(digits, HIDDEN, norm, rng, activation=npbn.Sigmoid, init=gaussian)
    at = points(trial)
    reached = np.full(len(at), np.nan)
    inputs = np.full((len(at), len(PERCENTILES), HIDDEN[-1]), np.nan)

    def measure(step: int) -> None:
        if step in at:
            now = np.searchsorted(at, step)
            reached[now] = accuracy(net, digits)
            # All but the last sigmoid and the last Linear; BatchNorm by the sample's statistics,
            # as in training, and in a copy, for it would gather them.
            before = copy.deepcopy(net[:-2]).train()(digits.train_images[:SAMPLE])
            inputs[now] = np.percentile(before, PERCENTILES, axis=0)

    train(net, digits, trial["lr"], trial["steps"], rng, batch_size=BATCH, after_step=measure)
    drifts = drift(inputs)
    return {
        "accuracy": reached,
        "percentiles": inputs[:, :, UNIT],
        "drift": drifts[UNIT],
        "layer_drift": np.median(drifts),
    }


def points(record: Trial) -> np.ndarray:
    """Return the steps after which a trial measures."""
    return np.linspace(0, record["steps"], record["points"] + 1).round().astype(int)


def drift(percentiles: np.ndarray) -> np.ndarray:
    """Return how far percentiles, (points, 3, ...), wander during training.

    The standard deviation over the points of each, the mean of the three, in units of the distance
    between the outer ones, which is averaged over the points.
    """
    width = (percentiles[:, 2] - percentiles[:, 0]).mean(axis=0)
    return percentiles.std(axis=0).mean(axis=0) / width


def pictures(records: list[Record]) -> list[Picture]:
    """Draw the accuracy, what the sigmoid gets to see without BatchNorm and with, and the drift."""
    reached = [
        f"{np.median(grid(records, norm, final)):.0%} {name} BatchNorm"
        for norm, name in ((True, "with"), (False, "without"))
    ]
    where = "Small multiples, a row for each learning rate and a column for each size of the "
    where += "initial weights."
    found = [
        Picture(
            "accuracy",
            f"{where} Test accuracy over training; at the end it is, in the median of all "
            f"panels, {reached[0]} and {reached[1]}.",
            accuracies(records),
        )
    ]
    for norm, name in ((False, "without"), (True, "with")):
        alt = (
            f"{where} The 15th, 50th and 85th percentile of the input of one sigmoid over training "
            f"{name} BatchNorm. They wander by {spread(grid(records, norm, unit_drift))} "
            "of their distance from one another."
        )
        found.append(Picture(f"input_{name}", alt, inputs(records, norm)))
    wandered = (np.median(grid(records, norm, layer_drift), axis=1) for norm in (True, False))
    ahead = np.sum(np.less(*wandered))
    alt = (
        "How far the percentiles wander, a row for each learning rate and size of the initial "
        f"weights: less with BatchNorm in {ahead} of {len(settings(records))} rows."
    )
    return [*found, Picture("drift", alt, drift_by_setting(records))]


def panels(records: list[Record], y: str) -> tuple[plt.Figure, dict[tuple[float, float], plt.Axes]]:
    """Return a figure with an empty panel for each learning rate (row) and deviation (column)."""
    rates, deviations = (sorted({r[name] for r in records}) for name in ("lr", "deviation"))
    figure, axes = plt.subplots(
        len(rates),
        len(deviations),
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(WIDTH, 0.9 + 1.1 * len(rates)),
    )
    for ax, deviation in zip(axes[0], deviations, strict=True):
        ax.set_title(f"weights {deviation:g}")
    for row, lr in zip(axes, rates, strict=True):
        row[-1].annotate(
            f"rate {lr:g}", (1.03, 0.5), xycoords="axes fraction", rotation=270, va="center"
        )
    figure.supxlabel("steps (weights: their deviation at the start)", fontsize="medium")
    figure.supylabel(y, fontsize="medium")
    steps = records[0]["steps"]
    axes[0, 0].set(xlim=(0, steps), xticks=(0, steps // 2))  # the last would touch the next first
    return figure, {
        (lr, deviation): axes[i, j]
        for i, lr in enumerate(rates)
        for j, deviation in enumerate(deviations)
    }


def accuracies(records: list[Record]) -> plt.Figure:
    """Draw test accuracy over training."""
    figure, axes = panels(records, "test accuracy")
    for setting, ax in axes.items():
        for norm, color in ((True, WITH), (False, WITHOUT)):
            runs = [r["accuracy"] for r in of(records, norm, setting)]
            median_and_spread(ax, points(records[0]), runs, color, NAMES[norm])
        ax.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def inputs(records: list[Record], norm: bool) -> plt.Figure:
    """Draw what the sigmoid gets to see: a line and a band for each seed, none of them hidden."""
    figure, axes = panels(records, f"input of a sigmoid, {'with' if norm else 'without'} BatchNorm")
    color = WITH if norm else WITHOUT
    for setting, ax in axes.items():
        for record in of(records, norm, setting):
            low, middle, high = np.array(record["percentiles"], float).T
            ax.fill_between(points(record), low, high, color=color, alpha=0.25, linewidth=0)
            ax.plot(points(record), middle, color=color, lw=1)
    ax.set(ylim=(-SHOWN, SHOWN))
    return figure


def drift_by_setting(records: list[Record]) -> plt.Figure:
    """Draw the drift in every setting."""
    names = [f"rate {lr:g}, weights {deviation:g}" for lr, deviation in settings(records)]
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.25 * len(names)))
    for norm, color, shift in ((True, WITH, -0.15), (False, WITHOUT, 0.15)):
        wandered = grid(records, norm, layer_drift)
        low, middle, high = wandered.min(1), np.median(wandered, 1), wandered.max(1)
        rows = np.arange(len(names)) + shift
        ax.hlines(rows, low, high, color=color, lw=2, alpha=0.5)
        ax.plot(middle, rows, "o", color=color, ms=5, label=NAMES[norm])
    ax.set(xscale="log", yticks=range(len(names)), yticklabels=names)
    ax.set_xlabel("drift of the percentiles / their distance")
    ax.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def verdict(records: list[Record]) -> Verdict:
    """Compare over all settings, at the best of each, and where the network learns without."""
    pairs = {}
    for name, measured in ((FASTER, speed), (HIGHER, final)):
        both = [grid(records, norm, measured) for norm in (True, False)]
        pairs[f"{name} over all settings"] = [found.mean(axis=0) for found in both]
        best = [found[np.median(found, axis=1).argmax()] for found in both]
        pairs[f"{name} at the best setting"] = best
    wandered = [grid(records, norm, layer_drift) for norm in (True, False)]
    pairs[STABLE] = [-np.median(found, axis=0) for found in wandered]
    plain = np.median(grid(records, False, final), axis=1) >= LEARNS
    if plain.any():
        pairs[STABLE_IF] = [-np.median(found[plain], axis=0) for found in wandered]
    parts = {name: bool(np.all(a > b)) for name, (a, b) in pairs.items()}

    def both_of(name: str, form: str = "{:.1%}") -> str:
        a, b = (form.format(abs(np.median(side))) for side in pairs[name])
        return f"{a} against {b}"

    seen = (
        "with BatchNorm against without, over all settings the test accuracy is "
        f"{both_of(f'{FASTER} over all settings')} on average over training and "
        f"{both_of(f'{HIGHER} over all settings')} at its end, at the best setting of each "
        f"{both_of(f'{FASTER} at the best setting')} and "
        f"{both_of(f'{HIGHER} at the best setting')}; the percentiles "
        f"wander by {both_of(STABLE, '{:.2f}')} of their distance from one another "
        "over all settings, and "
    )
    if plain.any():
        seen += (
            f"by {both_of(STABLE_IF, '{:.2f}')} in the {plain.sum()} of {len(plain)} in which "
            f"the network without BatchNorm reaches {LEARNS:.0%}"
        )
    else:
        seen += f"without BatchNorm no setting reaches {LEARNS:.0%}"
    return Verdict(parts, seen)


def table(records: list[Record]) -> list[list[str]]:
    """Return a row for each setting."""
    rows = [["learning rate", "weights"]]
    columns = []
    for name, measured, form in (
        ("accuracy during training", speed, "{:.1%}"),
        ("at the end", final, "{:.1%}"),
        ("drift, all sigmoids", layer_drift, "{:.2f}"),
        ("drift, the one shown", unit_drift, "{:.2f}"),
    ):
        rows[0] += [f"{name}, with BatchNorm", "without"]
        for norm in (True, False):
            columns.append([spread(runs, form) for runs in grid(records, norm, measured)])
    for (lr, deviation), *cells in zip(settings(records), *columns, strict=True):
        rows.append([f"{lr:g}", f"{deviation:g}", *cells])
    return rows


def settings(records: list[Record]) -> list[tuple[float, float]]:
    """Return learning rate and deviation of every setting."""
    return sorted({(r["lr"], r["deviation"]) for r in records})


def of(records: list[Record], norm: bool, setting: tuple[float, float]) -> list[Record]:
    """Return the records of a setting, in the order of the seeds."""
    found = [r for r in records if r["batch_norm"] is norm and (r["lr"], r["deviation"]) == setting]
    return sorted(found, key=lambda record: record["seed"])


def grid(records: list[Record], norm: bool, measured: Callable[[Record], float]) -> np.ndarray:
    """Return a measure by setting and seed."""
    return np.array(
        [[measured(r) for r in of(records, norm, setting)] for setting in settings(records)]
    )


def speed(record: Record) -> float:
    """Return the area under the curve of test accuracy: its mean over training."""
    reached = np.array(record["accuracy"], float)
    return float(np.nan_to_num((reached[1:] + reached[:-1]) / 2, nan=1 / CLASSES).mean())


def final(record: Record) -> float:
    """Return the test accuracy at the end; a network that diverged guesses."""
    return 1 / CLASSES if record["accuracy"][-1] is None else record["accuracy"][-1]


def layer_drift(record: Record) -> float:
    """Return the drift of the median sigmoid of the layer, endless where it is not finite."""
    return np.inf if record["layer_drift"] is None else record["layer_drift"]


def unit_drift(record: Record) -> float:
    """Return the drift of the sigmoid shown, endless where it is not finite."""
    return np.inf if record["drift"] is None else record["drift"]
