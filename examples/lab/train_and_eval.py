"""Training and evaluation mode: the same weights, two different networks."""

import copy
import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, median_and_spread
from examples.lab.experiment import Budget, Digits, Picture, Record, Trial, Verdict, spread
from examples.lab.networks import mlp, train

TITLE = "Training mode and evaluation mode"
QUESTION = "How far apart are the losses of one network in its two modes, and why?"
CLAIM = (
    "running averages lag behind and differ from what a batch shows, most with small batches, and "
    "after few steps with a small momentum; statistics of the whole data set evaluate better and "
    "close the gap"
)
SOURCE = "Wu and Johnson 2021, arXiv:2105.07576, section 3; Ioffe 2017, arXiv:1702.03275, section 1"
IDEA = """
In training BatchNorm normalises by the mean and variance of the batch, in evaluation by running
averages of them. The averages start at 0 and 1 and take in a share of every batch, the momentum:
with a small one they still remember the start, and weights that have gone by, when training is
short; with a large one they are the statistics of the last few batches, which are a matter of
chance if batches are small (Wu and Johnson, section 3). So the loss of the same weights on the
same images differs between the modes. npbn.update_batch_norm measures the statistics of all
images by these weights instead.

That leaves what no statistics can close: normalised together with one or a few others, an image
comes out differently every time, and the network trained is another function than the one that
is evaluated (Ioffe, section 1). The gap is the loss in evaluation mode less the loss in training
mode, the latter by batches as large as those of training; it may have either sign. Momentum has no
influence on the weights, and one training serves all of them.
"""

MOMENTA = (0.01, 0.1, 0.5, None)  # of the new value; None averages all batches since the start
USUAL, SMALL = 1, 0  # of MOMENTA: torch's default, and the one that forgets last
NAMES = ("momentum 0.01", "momentum 0.1", "momentum 0.5", "average of all", "population")
COLORS = (PURPLE, BLUE, ORANGE, GREEN, GREY)
POPULATION = len(MOMENTA)  # of NAMES: update_batch_norm's
PARTS = (  # of the claim
    "the smallest batch has the largest gap",
    "at the middle batch size a small momentum has the largest gap after few steps, and less later",
    "population statistics make the gap smaller after few steps",
    "and at the end",
    "population statistics lower the loss in evaluation",
)
FEW = (
    30  # steps, by which a momentum of 0.01 keeps three quarters of the start and 0.1 four percent
)
# Batch sizes, learning rates, steps at which to measure, seeds.
BUDGETS = {
    "quick": ((2, 16, 128), (0.1,), (10, FEW, 300), 2),
    "default": ((2, 4, 8, 16, 64, 256, 1024), (0.01, 0.1), (10, FEW, 100, 300), 3),
    "full": (tuple(2**n for n in range(1, 11)), (0.01, 0.03, 0.1), (10, FEW, 100, 300, 1000), 5),
}


def trials(budget: Budget) -> list[Trial]:
    """Every batch size at every learning rate."""
    sizes, rates, steps, seeds = BUDGETS[budget]
    return [
        {
            "batch_size": size,
            "lr": lr,
            "measure_after": list(steps),
            "momenta": list(MOMENTA),
            "seed": seed,
        }
        for size, lr, seed in itertools.product(sizes, rates, range(seeds))
    ]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes: its steps, and the losses by small batches."""
    size, measure_after = trial["batch_size"], trial["measure_after"]
    step = 0.0008 + 0.00001 * size
    return step * measure_after[-1] + (0.1 + 0.9 / size) * len(measure_after)


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return its loss in training mode and by each kind of statistics."""
    size, measure_after, momenta = (trial[k] for k in ("batch_size", "measure_after", "momenta"))
    rng = np.random.default_rng(trial["seed"])
    # With momentum 1 the running statistics are the last batch's, of which every average is made.
    net = mlp(digits, [100, 100], lambda width: npbn.BatchNorm1d(width, momentum=1.0), rng)
    averages = [np.stack(statistics(net), dtype=float) for _ in momenta]

    # The same images in both modes: those in whole batches.
    used = np.random.default_rng([trial["seed"], 1]).permutation(len(digits.train_labels))
    used = used[: len(used) // size * size]
    images, labels = digits.train_images[used], digits.train_labels[used]
    whole = [(images, labels)]
    as_trained = [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]
    in_training = np.full(len(measure_after), np.nan)
    in_evaluation = np.full((len(momenta) + 1, len(measure_after)), np.nan)

    def measure(column: int) -> None:
        twin = copy.deepcopy(net)
        in_training[column] = npbn.evaluate(twin, as_trained, train_mode=True).loss
        npbn.update_batch_norm(twin, whole)
        in_evaluation[POPULATION, column] = npbn.evaluate(twin, whole).loss
        for row, average in enumerate(averages):
            for statistic, value in zip(statistics(twin), average, strict=True):
                statistic[...] = value
            in_evaluation[row, column] = npbn.evaluate(twin, whole).loss

    def after_step(step: int) -> None:
        if step == 0:
            return
        batch = np.stack(statistics(net))
        for average, momentum in zip(averages, momenta, strict=True):
            average += (1 / step if momentum is None else momentum) * (batch - average)
        if step in measure_after:
            measure(measure_after.index(step))

    train(net, digits, trial["lr"], measure_after[-1], rng, batch_size=size, after_step=after_step)
    return {"train": in_training, "evaluation": in_evaluation}


def statistics(net: npbn.Module) -> list[np.ndarray]:
    """Return the running means and variances of a network, to be read and written."""
    norms = [layer for layer in net.modules() if isinstance(layer, npbn.BatchNorm1d)]
    return [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]


def pictures(records: list[Record]) -> list[Picture]:
    """Draw the gap by batch size and by steps, and the losses of which it is the difference."""
    lr = max(axis(records, "lr"))
    shown = [r for r in records if r["lr"] == lr]
    sizes, steps = axis(shown, "batch_size"), shown[0]["measure_after"]
    middle, few = len(sizes) // 2, steps.index(FEW)
    train, others = losses(shown)
    gaps = typical(others - train)
    ends = (
        f"{gaps[kind, 0, -1]:.2g} at batches of {sizes[0]} and {gaps[kind, -1, -1]:.2g} at "
        f"batches of {sizes[-1]}"
        for kind in (USUAL, POPULATION)
    )
    small, usual = gaps[SMALL, middle], gaps[USUAL, middle]
    train, usual_loss, population = (
        typical(each)[0, -1] for each in (train, others[USUAL], others[POPULATION])
    )
    end = f"after {steps[-1]} steps, learning rate {lr:g}"
    return [
        Picture(
            "batch_size",
            f"Gap against batch size {end}: {next(ends)} with momentum 0.1; {next(ends)} with "
            "population statistics.",
            by_batch_size(shown, end),
        ),
        Picture(
            "steps",
            f"Gap against steps at batches of {sizes[middle]}, learning rate {lr:g}: after {FEW} "
            f"steps {small[few]:.2g} with momentum 0.01 and {usual[few]:.2g} with 0.1; after "
            f"{steps[-1]} {small[-1]:.2g} and {usual[-1]:.2g}.",
            by_steps(shown, middle, f"batches of {sizes[middle]}, learning rate {lr:g}"),
        ),
        Picture(
            "losses",
            f"Three losses against batch size {end}: at batches of {sizes[0]} {train:.2g} in "
            f"training mode, {usual_loss:.2g} by running averages, {population:.2g} by population "
            "statistics.",
            three_losses(shown, end),
        ),
    ]


def gap_picture(gaps: np.ndarray, ax: plt.Axes, x: list[int], title: str) -> plt.Figure:
    """Draw the gap by each kind of statistics, given by kind, seed and place on the axis."""
    ax.axhline(0, color=GREY, lw=0.8, ls=":")
    for label, color, values in zip(NAMES, COLORS, gaps, strict=True):
        median_and_spread(ax, x, values, color, label)
    ax.set(ylabel="loss in evaluation mode\nless that in training mode", title=title)
    ax.figure.legend(loc="outside lower center", ncols=3)
    return ax.figure


def by_batch_size(records: list[Record], title: str) -> plt.Figure:
    """Draw the gap at the end of training."""
    train, others = losses(records)
    ax = plt.subplots()[1]
    sizes = size_axis(ax, records)
    return gap_picture((others - train)[..., -1].swapaxes(1, 2), ax, sizes, title)


def by_steps(records: list[Record], place: int, title: str) -> plt.Figure:
    """Draw the gap in the course of training, at the batch size of that number."""
    train, others = losses(records)
    steps = records[0]["measure_after"]
    ax = plt.subplots()[1]
    ax.set(xscale="log", xlabel="steps of training")
    ax.set_xticks(steps, [str(step) for step in steps])
    ax.minorticks_off()
    return gap_picture((others - train)[:, place], ax, steps, title)


def three_losses(records: list[Record], title: str) -> plt.Figure:
    """Draw what the gap is the difference of."""
    train, others = losses(records)
    figure, ax = plt.subplots()
    sizes = size_axis(ax, records)
    for label, color, found in (
        ("training mode", ORANGE, train),
        (f"evaluation, {NAMES[USUAL]}", BLUE, others[USUAL]),
        (f"evaluation, {NAMES[POPULATION]}", GREY, others[POPULATION]),
    ):
        median_and_spread(ax, sizes, found[:, :, -1].T, color, label)
    ax.set(yscale="log", ylabel="loss on training images", title=title)
    ax.legend()
    return figure


def size_axis(ax: plt.Axes, records: list[Record]) -> list[int]:
    """Prepare the axis of batch sizes; return them."""
    sizes = axis(records, "batch_size")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_xlabel("batch size")
    return sizes


def verdict(records: list[Record]) -> Verdict:
    """Compare batch sizes, momenta early and late, and population statistics early and late."""
    sizes, steps = axis(records, "batch_size"), records[0]["measure_after"]
    middle, few, held = len(sizes) // 2, steps.index(FEW), np.ones(len(PARTS), bool)
    for lr in axis(records, "lr"):  # the highest comes last, and stays for the numbers below
        train, others = losses([r for r in records if r["lr"] == lr])
        gaps = others - train
        size = np.abs(gaps)
        usual, left, at_middle = size[USUAL], size[POPULATION], size[:POPULATION, middle]
        held &= (
            # The smallest batch has the largest gap, when the start has been forgotten.
            np.all(usual[0, :, -1] > usual[1:, :, -1]),
            # The small momentum is the worst after few steps, and worse than later.
            np.all(at_middle[SMALL, :, few] > np.delete(at_middle[:, :, few], SMALL, axis=0))
            and np.all(at_middle[SMALL, :, few] > at_middle[SMALL, :, -1]),
            # Population statistics make the gap smaller: early, and late.
            np.all(left[..., few] < usual[..., few]),
            np.all(left[..., -1] < usual[..., -1]),
            np.all(others[POPULATION] < others[USUAL]),
        )
    closed = [int(np.sum(np.all(left < usual, axis=1)[:, column])) for column in (few, -1)]
    lower = np.mean(others[POPULATION] < others[USUAL])
    peak, gaps = np.argmax(typical(usual)[:, -1]), typical(gaps)
    return Verdict(
        dict(zip(PARTS, held.tolist(), strict=True)),
        f"at learning rate {lr:g} and after {steps[-1]} steps with momentum 0.1 the gap is "
        f"{gaps[USUAL, 0, -1]:.2g} at batches of {sizes[0]}, {gaps[USUAL, middle, -1]:.2g} at "
        f"{sizes[middle]} and {gaps[USUAL, -1, -1]:.2g} at {sizes[-1]}, and farthest from 0 at "
        f"{sizes[peak]}; with momentum 0.01 at batches of {sizes[middle]} it is "
        f"{gaps[SMALL, middle, few]:.2g} after {FEW} steps, {gaps[SMALL, middle, -1]:.2g} after "
        f"{steps[-1]}; population statistics instead of momentum 0.1 lower the loss in evaluation "
        f"in {lower:.0%} of the measurements, and bring the gap nearer to 0 in every seed at "
        f"{closed[0]} of {len(sizes)} batch sizes after {FEW} steps and {closed[1]} after "
        f"{steps[-1]}: what is left, {gaps[POPULATION, 0, -1]:.2g} at batches of {sizes[0]}, is "
        "the loss that the chance of a batch adds in training mode",
    )


def table(records: list[Record]) -> list[list[str]]:
    """Return the losses in training mode, and the gaps, early and late."""
    rows = [
        ["learning rate", "batch size", "steps", "training mode", *(f"gap, {n}" for n in NAMES)]
    ]
    steps = records[0]["measure_after"]
    for lr in axis(records, "lr"):
        some = [r for r in records if r["lr"] == lr]
        train, others = losses(some)
        for place, size in enumerate(axis(some, "batch_size")):
            for column in (steps.index(FEW), -1):
                gaps = typical(others - train)[:, place, column]
                loss = spread(train[place, :, column])
                row = [f"{lr:g}", str(size), str(steps[column]), loss]
                rows.append([*row, *(f"{value:.3g}" for value in gaps)])
    return rows


def axis(records: list[Record], name: str) -> list[float]:
    """Return the values of a trial's entry."""
    return sorted({r[name] for r in records})


def losses(records: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return those in training mode by batch size, seed, measurement; and of each of NAMES so."""
    of = {(r["batch_size"], r["seed"]): [r["train"], *r["evaluation"]] for r in records}
    sizes, seeds = axis(records, "batch_size"), axis(records, "seed")
    values = np.array([[of[size, seed] for seed in seeds] for size in sizes], float)
    train, *others = np.moveaxis(values, 2, 0)
    return train, np.array(others)


def typical(values: np.ndarray) -> np.ndarray:
    """Return the median over the seeds, the axis before the last."""
    return np.median(values, axis=-2)
