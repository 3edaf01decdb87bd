"""Where BatchNorm stands: before the activation or after it, with a bias or without, at the end."""

import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    WIDTH,
    median_and_spread,
)
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
from examples.lab.networks import accuracy, train

TITLE = "Where BatchNorm stands"
QUESTION = (
    "Before the activation or after it, with a bias or without, and what for scale and shift?"
)
CLAIM = (
    "BatchNorm belongs before the nonlinearity, a bias before it has no effect, and scale and "
    "shift are needed"
)
SOURCE = "Ioffe and Szegedy 2015, arXiv:1502.03167, sections 3 and 3.2"
IDEA = """
Ioffe and Szegedy put BatchNorm between the linear layer and its nonlinearity: a sum of many
inputs, they argue, is distributed more like a normal variable than what comes out of a
nonlinearity, so that mean and variance say more of it (section 3.2). The linear layer then needs
no bias: BatchNorm subtracts the batch's mean and any constant with it, and the gradient of such a
bias is 0. The scale and the shift that BatchNorm learns are there so that it can undo itself, where
that is what the network needs (section 3).

Here one network of ReLUs is trained in all these ways, from the same initial weights over the same
batches for each seed, so that the results can be compared in pairs. BatchNorm on the logits and no
BatchNorm at all are shown beside them; the paper claims nothing of the former. All is computed in
float64: what is left of a gradient of 0 is rounding, and too small to change what is learnt.
"""

HIDDEN = [100, 100]
VARIANTS = {  # with the colours of the curves
    "before": BLUE,
    "before, bias": BLUE,  # whose curves are the same if the paper is right
    "before, affine=False": PURPLE,
    "before, logits too": GREEN,
    "after": ORANGE,
    "none": GREY,
}
WITHOUT_BIAS = ("before", "before, affine=False", "before, logits too")
RATES = (0.01, 0.1, 1)
# A bias's gradient, largest over training, as a part of the weights'. Each is a sum of 64 terms:
# rounding in float64 (2e-16) leaves far less of a 0, anything real leaves far more.
NOTHING = 1e-9
SAME = 0.0011  # accuracies that differ by one test image of 1,000 are no different

# Steps, points of the curves, seeds.
BUDGETS = {"quick": (50, 5, 2), "default": (500, 10, 5), "full": (4000, 40, 10)}


def trials(budget: Budget) -> list[Trial]:
    """Every variant at every learning rate."""
    steps, points, seeds = BUDGETS[budget]
    return [
        {"variant": variant, "lr": lr, "steps": steps, "points": points, "seed": seed}
        for variant, lr, seed in itertools.product(VARIANTS, RATES, range(seeds))
    ]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes."""
    return 0.08 + (0.0015 if trial["variant"] == "none" else 0.0023) * trial["steps"]


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return test accuracy over training and the gradient of its biases.

    The gradient is the largest of the hidden layers' biases over training, as a part of the
    largest of their weights; None without biases.
    """
    rng = np.random.default_rng(trial["seed"])
    digits = digits._replace(
        train_images=digits.train_images.astype(float), test_images=digits.test_images.astype(float)
    )
    net = network(trial["variant"], digits, rng)
    hidden = [layer for layer in net if isinstance(layer, npbn.Linear)][:-1]
    at = points(trial)
    reached = np.full(len(at), np.nan)
    largest = {"weight": 0.0, "bias": 0.0}

    def measure(step: int) -> None:
        if step in at:
            reached[np.searchsorted(at, step)] = accuracy(net, digits)
        if step == 0 or hidden[0].bias is None:
            return
        for layer in hidden:
            for name in largest:
                largest[name] = max(largest[name], np.abs(getattr(layer, name).grad).max())

    train(net, digits, trial["lr"], trial["steps"], rng, after_step=measure)
    gradient = None
    if hidden[0].bias is not None:
        gradient = largest["bias"] / largest["weight"] if largest["weight"] else 0.0
    return {"accuracy": reached, "bias_gradient": gradient}


def network(variant: str, digits: Digits, rng: np.random.Generator) -> npbn.Sequential:
    """Return the network of a variant; the weights depend on `rng` alone."""
    where, _, what = variant.partition(", ")
    net = npbn.Sequential()
    widths = [digits.train_images.shape[1], *HIDDEN, CLASSES]
    for fan_in, fan_out in itertools.pairwise(widths):
        last = fan_out == CLASSES
        linear = npbn.Linear(fan_in, fan_out, rng=rng)
        norm = npbn.BatchNorm1d(fan_out, affine=what != "affine=False")
        normalised = what == "logits too" if last else where != "none"
        if normalised and where == "before" and what != "bias":
            linear.bias = None  # drawn nevertheless, so that the next weights are the same
        layers = [linear] if last else [linear, npbn.ReLU()]
        if normalised:
            layers.insert(1 if where == "before" else 2, norm)
        for layer in layers:
            net.append(layer)
    return net.double()


def points(record: Trial) -> np.ndarray:
    """Return the steps after which a trial measures."""
    return np.linspace(0, record["steps"], record["points"] + 1).round().astype(int)


def pictures(records: list[Record]) -> list[Picture]:
    """Draw the accuracies, the differences from BatchNorm before the ReLU, and the curves."""
    middle = {v: f"{v} {1 - np.median(finals(records, v)):.1%}" for v in VARIANTS}
    ahead = {
        v: f"{v} {(difference(records, v) > 0).sum()}"
        for v in VARIANTS
        if v not in ("before", "none")
    }
    early = {
        v: np.median([r["accuracy"][1] or 1 / CLASSES for r in records if r["variant"] == v])
        for v in VARIANTS
    }
    return [
        Picture(
            "accuracy",
            "Test error of every variant, a panel for each learning rate; the median over all "
            f"of them is {', '.join(middle.values())}.",
            dots(records),
        ),
        Picture(
            "differences",
            "Difference of the test accuracy from BatchNorm before the ReLU, from the same initial "
            f"weights. Of {finals(records, 'before').size} pairs, better than that are "
            f"{', '.join(ahead.values())}.",
            differences(records),
        ),
        Picture(
            "curves",
            "Test error over training, a panel for each learning rate. After the first "
            f"{points(records[0])[1]} steps the median accuracy is {early['before']:.0%} with "
            f"BatchNorm before the ReLU, {early['after']:.0%} after it, and "
            f"{early['none']:.0%} without.",
            curves(records),
        ),
    ]


def dots(records: list[Record]) -> plt.Figure:
    """Draw the test error at the end: a dot for the median, a line for the range."""
    figure, axes = plt.subplots(1, len(RATES), sharex=True, sharey=True, figsize=(WIDTH, 2.6))
    for column, (lr, ax) in enumerate(zip(RATES, axes, strict=True)):
        for row, (variant, color) in enumerate(VARIANTS.items()):
            runs = 100 * (1 - finals(records, variant)[column])
            ax.hlines(row, runs.min(), runs.max(), color=color, lw=3, alpha=0.5)
            ax.plot(np.median(runs), row, "o", color=color, ms=5)
        ax.set(title=f"rate {lr:g}", xscale="log", xlim=(3, 100))
        ax.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        ax.minorticks_off()
        ax.grid(axis="x", alpha=0.3)
    axes[0].set(yticks=range(len(VARIANTS)), yticklabels=VARIANTS)
    axes[0].invert_yaxis()
    figure.supxlabel("test error (%)", fontsize="medium")
    return figure


def differences(records: list[Record]) -> plt.Figure:
    """Draw every pair as a dot."""
    names = [v for v in VARIANTS if v not in ("before", "none")]
    figure, axes = plt.subplots(1, len(RATES), sharex=True, sharey=True, figsize=(WIDTH, 2.4))
    for column, (lr, ax) in enumerate(zip(RATES, axes, strict=True)):
        ax.axvline(0, color=GREY, lw=1)
        for row, variant in enumerate(names):
            pairs = 100 * difference(records, variant)[column]
            beside = row + np.linspace(-0.2, 0.2, len(pairs))  # equal ones would hide one another
            ax.plot(pairs, beside, "o", color=VARIANTS[variant], ms=4)
        ax.set_title(f"rate {lr:g}")
    axes[0].set(yticks=range(len(names)), yticklabels=names)
    axes[0].invert_yaxis()
    figure.supxlabel("accuracy less that of 'before', percentage points", fontsize="medium")
    return figure


def curves(records: list[Record]) -> plt.Figure:
    """Draw the test error over training."""
    figure, axes = plt.subplots(len(RATES), sharex=True, sharey=True, figsize=(WIDTH, 5))
    for lr, ax in zip(RATES, axes, strict=True):
        for variant, color in VARIANTS.items():
            if variant != "before, bias":  # the same curve as without
                runs = [r["accuracy"] for r in of(records, variant, lr)]
                runs = 100 * (1 - np.array(runs, float))
                median_and_spread(ax, points(records[0]), runs, color, variant)
                if variant == "before, affine=False":  # or it would hide the one with them
                    ax.lines[-1].set_linestyle("--")
        ax.set(title=f"learning rate {lr:g}", xlim=(0, records[0]["steps"]))
        ax.set(yscale="log", ylim=(3, 100))
        ax.set_yticks([5, 10, 20, 50], ["5", "10", "20", "50"])
        ax.minorticks_off()
    axes[1].set_ylabel("test error (%)")
    axes[-1].set_xlabel("steps")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def verdict(records: list[Record]) -> Verdict:
    """Compare, for each seed, the accuracies averaged over the learning rates."""
    gradients = [r["bias_gradient"] for r in records if r["variant"] == "before, bias"]
    gradient = np.inf if None in gradients else max(gradients)  # None: diverged
    biased = np.abs(difference(records, "before, bias")).max()
    worse = {v: difference(records, v).mean(axis=0) < 0 for v in ("after", "before, affine=False")}
    parts = {
        "better before the ReLU than after it": bool(np.all(worse["after"])),
        "no gradient of a bias before BatchNorm": gradient <= NOTHING,
        "the same accuracy with that bias": bool(biased <= SAME),
        "better with scale and shift learnt than without": bool(
            np.all(worse["before, affine=False"])
        ),
    }

    def gain(variant: str) -> str:
        by_pair = -100 * difference(records, variant)
        return (
            f"{(by_pair > 0).sum()} of {by_pair.size} pairs, on average over the learning rates by "
            f"{spread(by_pair.mean(axis=0), '{:+.2f}')} percentage points"
        )

    return Verdict(
        parts,
        f"BatchNorm before the ReLU is better than after it in {gain('after')}; the gradient of a "
        f"bias before BatchNorm is at most {gradient:.0e} of the weights', and with it the test "
        f"accuracy differs by at most {biased:.1%}; scale and shift are better than none "
        f"in {gain('before, affine=False')}",
    )


def table(records: list[Record]) -> list[list[str]]:
    """Return the accuracies, and the bias's gradient over all learning rates."""
    rows = [
        ["BatchNorm", *(f"accuracy, rate {lr:g}" for lr in RATES), "bias's gradient / weights'"]
    ]
    for variant in VARIANTS:
        gradients = [r["bias_gradient"] for r in records if r["variant"] == variant]
        shown = "diverged" if None in gradients else spread(gradients, "{:.1e}")
        if variant in WITHOUT_BIAS:
            shown = "no bias"
        rows.append([variant, *(spread(x, "{:.1%}") for x in finals(records, variant)), shown])
    return rows


def of(records: list[Record], variant: str, lr: float) -> list[Record]:
    """Return the records of a variant at a learning rate, in the order of the seeds."""
    found = [r for r in records if r["variant"] == variant and r["lr"] == lr]
    return sorted(found, key=lambda record: record["seed"])


def finals(records: list[Record], variant: str) -> np.ndarray:
    """Return the test accuracies at the end by learning rate and seed; who diverged guesses."""
    reached = [[r["accuracy"][-1] for r in of(records, variant, lr)] for lr in RATES]
    return np.nan_to_num(np.array(reached, float), nan=1 / CLASSES)


def difference(records: list[Record], variant: str) -> np.ndarray:
    """Return by how much a variant is better than BatchNorm before the ReLU, in the same shape."""
    return finals(records, variant) - finals(records, "before")
