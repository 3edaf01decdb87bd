"""Batch size: too large, too small, and layers that are made for either."""

import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.drawing import BLUE, GREEN, GREY, ORANGE, WIDTH, median_and_spread
from examples.lab.experiment import Budget, Digits, Picture, Record, Trial, Verdict, spread
from examples.lab.networks import accuracy, mlp, train

TITLE = "Large batches and tiny ones"
QUESTION = "What does the batch size cost, and do ghost batches and renormalisation win it back?"
CLAIM = (
    "large batches generalise worse, which ghost batches reduce without more steps; at tiny "
    "batches BatchNorm is less effective, and renormalisation is better"
)
SOURCE = (
    "Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, sections 3 and 4; Ioffe 2017, "
    "arXiv:1702.03275, sections 3 and 4"
)
IDEA = """
With the number of passes over the images fixed, large batches take few steps. Hoffer, Hubara and
Soudry raise the learning rate with the square root of the batch size, which keeps the noise of the
weights' path alike, and split a batch into ghosts of a few dozen images, each normalised by its own
statistics (section 4): the noise of small batches, which is said to help generalisation, stays.
What they explain is the gap between training and test accuracy. At the other end the statistics of
a handful of images are poor, and differ from those of evaluation. Batch renormalisation (Ioffe)
corrects the normalised batch towards the running statistics, within limits r_max and d_max that
start at 1 and 0, which is plain BatchNorm, and end at 3 and 5.

Here a small network is trained on a part of the images. All variants of a seed have the same
images, the same initial weights and the same batches. Accuracy is measured with population
statistics (npbn.update_batch_norm): the running averages of a large batch, which sees few steps,
still remember their start, while ghosts enter them one after the other and do not, which would
pass for better generalisation. The table has both.
"""

GHOST = 32  # images; also the batch size that counts as the middle
R_MAX, D_MAX = 3.0, 5.0  # Ioffe's, section 4; and so is the schedule in shares of training:
# plain for 5,000 steps, the limits reached at 40,000 and 25,000 of some 130,000.
PLAIN_UNTIL, R_FROM, D_FROM = 0.04, 0.3, 0.2
RENORM_MOMENTUM = 0.01  # Ioffe's: what normalises in training must not hang on a few tiny batches
LABELS = {"batch": "plain", "ghost": f"ghosts of {GHOST}", "renorm": "renormalisation"}
COLORS = {"batch": BLUE, "ghost": GREEN, "renorm": ORANGE}
RATE_AT = 64  # the batch size at which the base learning rate holds
TINY = 8  # the largest batch size for which renormalisation is tried
# Images to train on, batch sizes, passes over the images, base learning rates, seeds.
BUDGETS = {
    "quick": (512, (2, 32, 512), 10, (0.1,), 2),
    "default": (1024, (2, 8, 32, 128, 512, 1024), 24, (0.03, 0.1), 3),
    "full": (2048, (2, 4, 8, 16, 32, 64, 128, 512, 2048), 60, (0.01, 0.03, 0.1, 0.3), 5),
}


def trials(budget: Budget) -> list[Trial]:
    """Plain BatchNorm everywhere, ghosts in larger batches than one, renormalisation in tiny."""
    images, sizes, epochs, rates, seeds = BUDGETS[budget]
    variants = [
        *(("batch", size) for size in sizes),
        *(("ghost", size) for size in sizes if size > GHOST),
        *(("renorm", size) for size in sizes if size <= TINY),
    ]
    return [
        {
            "norm": norm,
            "batch_size": size,
            "base_lr": lr,
            "images": images,
            "epochs": epochs,
            "seed": seed,
        }
        for (norm, size), lr, seed in itertools.product(variants, rates, range(seeds))
    ]


def steps_of(trial: Trial) -> int:
    """Return how many steps the passes over the images take."""
    return trial["images"] // trial["batch_size"] * trial["epochs"]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes."""
    step = 0.0006 + 0.00001 * trial["batch_size"]
    return step * steps_of(trial) * {"batch": 1, "ghost": 1.5, "renorm": 1.1}[trial["norm"]]


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return its accuracy on the images trained with, and on the test's."""
    rng = np.random.default_rng(trial["seed"])
    part = rng.choice(len(digits.train_labels), trial["images"], replace=False)
    digits = digits._replace(
        train_images=digits.train_images[part], train_labels=digits.train_labels[part]
    )
    net = mlp(digits, [100, 100], MAKERS[trial["norm"]], rng)
    size, steps = trial["batch_size"], steps_of(trial)
    lr = trial["base_lr"] * np.sqrt(size / RATE_AT)
    renorms = [layer for layer in net if isinstance(layer, npbn.BatchRenorm1d)]

    def relax(step: int) -> None:
        for layer in renorms:
            layer.r_max, layer.d_max = limits(step / steps)

    train(net, digits, lr, steps, rng, batch_size=size, after_step=relax)
    as_trained = accuracy(net, digits)
    images = [(digits.train_images, digits.train_labels)]
    npbn.update_batch_norm(net, images)
    return {
        "test": accuracy(net, digits),
        "train": npbn.evaluate(net, images).accuracy,
        "as_trained": as_trained,
    }


MAKERS = {
    "batch": npbn.BatchNorm1d,
    "ghost": lambda width: npbn.GhostBatchNorm1d(width, GHOST),
    "renorm": lambda width: npbn.BatchRenorm1d(width, 1.0, 0.0, momentum=RENORM_MOMENTUM),
}


def limits(share: float) -> tuple[float, float]:
    """Return r_max and d_max after this share of training."""
    r_share, d_share = (
        min(max((share - PLAIN_UNTIL) / (end - PLAIN_UNTIL), 0), 1) for end in (R_FROM, D_FROM)
    )
    return 1 + r_share * (R_MAX - 1), d_share * D_MAX


def pictures(records: list[Record]) -> list[Picture]:
    """Draw test accuracy, training less test accuracy, and what the two layers win."""
    (tiny, *_, large), rates = axis(records, "batch_size"), axis(records, "base_lr")
    test, gap = (
        {
            size: 100 * np.median(by_seed(records, "batch", size, what))
            for size in (tiny, GHOST, large)
        }
        for what in ("test", "gap")
    )
    won = " and ".join(
        f"{100 * np.median(gain(records, norm, size)):+.1f} points by {LABELS[norm]} at batches "
        f"of {size}"
        for norm, size in (("renorm", tiny), ("ghost", large))
    )
    mean, named = "mean over the learning rates", " and ".join(f"{lr:g}" for lr in rates)
    return [
        Picture(
            "accuracy",
            f"Test error against batch size, base learning rate {named}. With plain BatchNorm the "
            f"accuracy is "
            f"{test[tiny]:.1f} % at batches of {tiny}, {test[GHOST]:.1f} % at {GHOST}, "
            f"{test[large]:.1f} % at {large} ({mean}).",
            panels(records, "error", "test error (%)"),
        ),
        Picture(
            "gap",
            "Training less test accuracy against batch size: with plain BatchNorm "
            f"{gap[tiny]:.1f} points at batches of {tiny}, {gap[GHOST]:.1f} at {GHOST}, "
            f"{gap[large]:.1f} at {large} ({mean}).",
            panels(records, "gap", "training less\ntest accuracy (points)"),
        ),
        Picture(
            "gain", f"Gain in test accuracy over plain BatchNorm: {won} ({mean}).", gains(records)
        ),
    ]


def panels(records: list[Record], what: str, label: str) -> plt.Figure:
    """Draw a result by batch size, a panel for each learning rate."""
    rates = axis(records, "base_lr")
    figure, found = plt.subplots(
        len(rates), sharex=True, sharey=True, squeeze=False, figsize=(WIDTH, 1.2 + 2 * len(rates))
    )
    for ax, lr in zip(found[:, 0], rates, strict=True):
        some = [r for r in records if r["base_lr"] == lr]
        for norm, color in COLORS.items():
            sizes = sizes_of(some, norm)
            values = [100 * by_seed(some, norm, size, what) for size in sizes]
            median_and_spread(ax, sizes, np.transpose(values), color, LABELS[norm])
            # A variant tried at one size only has no line.
            ax.plot(sizes, np.median(values, axis=1), "o", color=color, ms=4)
        if what == "error":  # or tiny batches would flatten the others
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("{x:g}")
        ax.set(ylabel=label, title=f"learning rate {lr:g} · √(batch size / {RATE_AT})")
    label_sizes(ax, records)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def gains(records: list[Record]) -> plt.Figure:
    """Draw the difference from plain BatchNorm, seed by seed, on scales of their own."""
    figure, panels = plt.subplots(1, 2)
    for ax, norm in zip(panels, ("renorm", "ghost"), strict=True):
        ax.axhline(0, color=GREY, lw=0.8, ls=":")
        sizes = sizes_of(records, norm)
        values = [100 * gain(records, norm, size) for size in sizes]
        median_and_spread(ax, sizes, np.transpose(values), COLORS[norm], LABELS[norm])
        ax.plot(sizes, values, "o", color=COLORS[norm], ms=4)  # each seed, there are few
        ax.set_title(LABELS[norm])
        label_sizes(ax, [r for r in records if r["norm"] == norm])
    panels[0].set_ylabel("test accuracy above that of\nplain BatchNorm (points)")
    return figure


def label_sizes(ax: plt.Axes, records: list[Record]) -> None:
    """Prepare the axis of batch sizes."""
    sizes = axis(records, "batch_size")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_xlabel("batch size")


def verdict(records: list[Record]) -> Verdict:
    """Compare both ends with the middle, and there the layers with plain BatchNorm."""
    tiny, *_, large = axis(records, "batch_size")
    lost = [
        by_seed(records, "batch", GHOST, "test") - by_seed(records, "batch", size, "test")
        for size in (large, tiny)
    ]
    won = [gain(records, norm, size) for norm, size in (("ghost", large), ("renorm", tiny))]
    losses, gained = ([points(each) for each in both] for both in (lost, won))
    measured = [
        by_seed(records, norm, size, "gap")
        for norm, size in (("batch", GHOST), ("batch", large), ("ghost", large))
    ]
    wider, narrower = measured[1] - measured[0], measured[1] - measured[2]
    gaps = [points(each) for each in measured]
    as_trained = gain(records, "ghost", large, "as_trained")
    return Verdict(
        {
            "a larger gap between training and test at large batches": bool(np.all(wider > 0)),
            "less accurate at large batches": bool(np.all(lost[0] > 0)),
            "less accurate at tiny ones": bool(np.all(lost[1] > 0)),
            "a smaller gap at large batches with ghosts": bool(np.all(narrower > 0)),
            "more accurate there with ghosts": bool(np.all(won[0] > 0)),
            "more accurate at tiny ones with renormalisation": bool(np.all(won[1] > 0)),
        },
        f"against batches of {GHOST} plain BatchNorm loses {losses[0]} points of test accuracy at "
        f"batches of {large}, {losses[1]} at {tiny}; ghosts change it by {gained[0]} points at "
        f"{large} (by {points(as_trained)} with running averages as training left them), "
        f"renormalisation by {gained[1]} at {tiny}; training accuracy is above that of the test by "
        f"{gaps[0]} points at {GHOST}, {gaps[1]} at {large}, with ghosts {gaps[2]}",
    )


def table(records: list[Record]) -> list[list[str]]:
    """Return the accuracies, in percent."""
    rows = [["layer", "learning rate", "batch size", "steps", "training", "test", "as trained"]]
    for norm, lr in itertools.product(LABELS, axis(records, "base_lr")):
        some = [r for r in records if r["base_lr"] == lr]
        for size in sizes_of(some, norm):
            steps = steps_of(next(r for r in some if r["batch_size"] == size))
            values = (
                points(by_seed(some, norm, size, what)) for what in ("train", "test", "as_trained")
            )
            rows.append([LABELS[norm], f"{lr:g}", str(size), str(steps), *values])
    return rows


def axis(records: list[Record], name: str) -> list[float]:
    """Return the values of a trial's entry."""
    return sorted({r[name] for r in records})


def sizes_of(records: list[Record], norm: str) -> list[int]:
    """Return the batch sizes with which a layer was tried."""
    return axis([r for r in records if r["norm"] == norm], "batch_size")


def by_seed(records: list[Record], norm: str, size: int, what: str) -> np.ndarray:
    """Return an accuracy, or 'gap' or 'error', for each seed: mean over learning rates."""
    if what == "error":
        return 1 - by_seed(records, norm, size, "test")
    if what == "gap":
        return by_seed(records, norm, size, "train") - by_seed(records, norm, size, "test")
    some = [r for r in records if (r["norm"], r["batch_size"]) == (norm, size)]
    return np.array(
        [np.mean([r[what] for r in some if r["seed"] == seed]) for seed in axis(some, "seed")]
    )


def gain(records: list[Record], norm: str, size: int, what: str = "test") -> np.ndarray:
    """Return the accuracy that a layer wins over plain BatchNorm, for each seed."""
    return by_seed(records, norm, size, what) - by_seed(records, "batch", size, what)


def points(shares: np.ndarray) -> str:
    """Return shares in percent as text."""
    return spread(100 * shares, "{:.1f}")
