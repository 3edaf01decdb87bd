"""The landscape of the loss: why BatchNorm helps."""

import copy
import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.drawing import GREEN, WIDTH, WITH, WITHOUT, median_and_spread
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
from examples.lab.networks import accuracy, he_normal, mlp, train

TITLE = "The landscape of the loss"
QUESTION = "Does BatchNorm help by making the loss smoother, or by keeping distributions still?"
CLAIM = (
    "with BatchNorm loss and gradient change less along the gradient; with noise after it the "
    "network trains as well, though its distributions move more than those of the plain one"
)
SOURCE = (
    "Santurkar, Tsipras, Ilyas and Madry 2018, How Does Batch Normalization Help Optimization?, "
    "arXiv:1805.11604, section 3.1 with figure 4, section 2.1 with figure 2"
)
IDEA = """
A step of gradient descent trusts that the gradient stays much the same along the way. Santurkar
et al. hold that BatchNorm helps since it makes that true: going along the gradient, the loss and
the gradient change less, the landscape is smoother. They hold it against the older explanation,
that BatchNorm keeps the distributions of the layers' inputs still ("internal covariate shift"):
a network whose BatchNorms are followed by noise, of a mean and a scale that are drawn anew in
every step, has restless distributions and trains well nevertheless.

Here a network of five hidden layers is trained plain, with BatchNorm, and with BatchNorm and
noise. At regular steps it stops, and from where it is the loss and the gradient of one batch are
looked at along the gradient, as far as half a step to four steps of training. "Effective
smoothness" is the largest ratio of the change of the gradient to the distance. The movement of
the distributions is how far mean and standard deviation of each unit, over a fixed set of images,
move in one step, as a multiple of the layer's standard deviation. (With BatchNorm that is little
by construction: on any batch, mean and deviation are its shift and scale.)
"""

RATES = (0.02, 0.1, 0.5)
STEPS_AHEAD = (0.5, 1.0, 2.0, 4.0)  # how far along the gradient, in steps of training
PROBED = 128  # images of the batch whose loss is looked at, and of those of the distributions
AS_WELL = 0.03  # noise trains as well if the accuracy is not lower than without by more than this
KINDS = {"batch_norm": ("BatchNorm", WITH), "plain": ("plain", WITHOUT)}
KINDS["noisy"] = ("BatchNorm + noise", GREEN)
MEASURES = {
    "loss": "range of the loss",
    "gradient": "change of the gradient",
    "smoothness": "effective smoothness (lower: smoother)",
    "movement": "movement in a step",
    "accuracy": "test accuracy, mean over training",
}
AXES = {"smoothness": "effective smoothness\n(lower: smoother)", "accuracy": "test accuracy"}
# Steps, how many from one look to the next, seeds.
BUDGETS = {"quick": (60, 10, 2), "default": (300, 10, 5), "full": (2000, 20, 5)}


class Noise(npbn.Module):
    """Scales and shifts every number at random, in training only.

    For each unit a shift and a scale are drawn anew in every pass, the distribution of that step,
    from U(-0.5, 0.5) and U(1, 1.25); each number of the batch then gets its own from around them,
    U(shift - 0.1, shift + 0.1) and N(scale, 0.1). The values are those of the paper's appendix A.
    In evaluation all are multiplied by the mean scale. Backward takes the noise as constant.
    """

    SHIFT, SCALE, AROUND = 0.5, 1.25, 0.1

    def __init__(self, features: int, rng: np.random.Generator):
        self.features, self.rng = features, rng

    def _apply(self, x: np.ndarray, predict: bool) -> tuple[np.ndarray, Any]:
        if predict or not self.training:
            scale = np.float32((1 + self.SCALE) / 2)
            return x * scale, scale
        shift = self.rng.uniform(-self.SHIFT, self.SHIFT, self.features)
        scale = self.rng.uniform(1, self.SCALE, self.features)
        shift = shift + self.rng.uniform(-self.AROUND, self.AROUND, x.shape)
        scale = self.rng.normal(scale, self.AROUND, x.shape).astype(np.float32)
        return x * scale + shift.astype(np.float32), scale

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return grad_output * cache if input_grad else None


def trials(budget: Budget) -> list[Trial]:
    """Each kind of network at every learning rate, the same for all."""
    steps, every, seeds = BUDGETS[budget]
    return [
        {"kind": kind, "lr": lr, "steps": steps, "every": every, "seed": seed}
        for kind, lr, seed in itertools.product(KINDS, RATES, range(seeds))
    ]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes."""
    step, look = {"batch_norm": (2, 30), "plain": (1.2, 20), "noisy": (3.5, 50)}[trial["kind"]]
    return 0.001 * (step * trial["steps"] + look * trial["steps"] / trial["every"])


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return what is seen at regular steps, None once it has diverged."""
    rng = np.random.default_rng(trial["seed"])
    draws, noise = (np.random.default_rng([trial["seed"], purpose]) for purpose in (1, 2))
    every, steps = trial["every"], trial["steps"]

    def norm(features: int) -> npbn.Module:
        bn = npbn.BatchNorm1d(features)
        return npbn.Sequential(bn, Noise(features, noise)) if trial["kind"] == "noisy" else bn

    normalise = None if trial["kind"] == "plain" else norm
    net = mlp(digits, [100] * 5, normalise, rng, init=he_normal())
    found: dict[str, list[float | None]] = {name: [] for name in MEASURES}
    before = None

    def look(step: int) -> None:
        nonlocal before
        if step % every == 0 and step < steps:
            chosen = draws.choice(len(digits.train_labels), PROBED, replace=False)
            batch = digits.train_images[chosen], digits.train_labels[chosen]
            for name, value in probe(net, *batch, trial["lr"]).items():
                found[name].append(value)
            found["accuracy"].append(accuracy(net, digits))
            before = distributions(net, digits)
        elif step % every == 1:
            found["movement"].append(movement(before, distributions(net, digits)))

    train(net, digits, trial["lr"], steps, rng, after_step=look)
    looks = len(range(0, steps, every))
    return {name: values + [None] * (looks - len(values)) for name, values in found.items()}


def probe(net: npbn.Module, x: np.ndarray, target: np.ndarray, lr: float) -> dict[str, float]:
    """Look at loss and gradient of a batch along the gradient; `net` stays as it is."""
    start, gradient = loss_and_gradient(net, x, target)
    losses, changes, ratios = [start], [], []
    size = norm_of(gradient)
    for ahead in STEPS_AHEAD:
        loss, there = loss_and_gradient(net, x, target, [-lr * ahead * g for g in gradient])
        change = norm_of([a - b for a, b in zip(there, gradient, strict=True)])
        losses.append(loss)
        changes.append(change)
        ratios.append(change / (lr * ahead * size))
    return {
        "loss": np.max(losses) - np.min(losses),
        "gradient": np.max(changes),
        "smoothness": np.max(ratios),
    }


def loss_and_gradient(
    net: npbn.Module, x: np.ndarray, target: np.ndarray, move: list[np.ndarray] | None = None
) -> tuple[float, list[np.ndarray]]:
    """Return loss and gradient in training mode, the parameters moved.

    It is a copy that runs, with a copy of the noise's generator: the same noise at every point.
    """
    net = copy.deepcopy(net)
    parameters = list(net.parameters())
    for parameter in parameters:
        parameter.grad = None
    for parameter, step in zip(parameters, move, strict=True) if move else ():
        parameter.data += step
    criterion = npbn.CrossEntropyLoss()
    loss = criterion(net(x), target)
    net.backward(criterion.backward(), input_grad=False)
    return float(loss), [parameter.grad for parameter in parameters]


def norm_of(arrays: list[np.ndarray]) -> float:
    """Return the Euclidean norm of all numbers together."""
    return float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays)))


def distributions(net: npbn.Sequential, digits: Digits) -> list[np.ndarray]:
    """Return, for the input of each ReLU, mean and standard deviation of every unit, (2, units).

    Of the same images every time, in training mode.
    """
    found, x = [], digits.train_images[:PROBED]
    for layer in copy.deepcopy(net):
        if isinstance(layer, npbn.ReLU):
            found.append(np.stack([x.mean(axis=0), x.std(axis=0)]))
        x = layer(x)
    return found


def movement(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """Return how far the distributions moved, averaged over the layers.

    In a layer: the distance that (mean, deviation) of a unit moved, root mean square over the
    units, over the layer's deviation, also root mean square.
    """
    moved = [
        np.sqrt(np.mean(np.sum((b - a) ** 2, axis=0)) / np.mean(a[1] ** 2))
        for a, b in zip(before, after, strict=True)
    ]
    return float(np.mean(moved))


def pictures(records: list[Record]) -> list[Picture]:
    """Draw each measure over the steps; a panel for each learning rate."""
    found = []
    for names in (("loss",), ("gradient",), ("smoothness",), ("accuracy", "movement")):
        alt = "Over the steps of training, a panel for each learning rate: " + "; ".join(
            f"{MEASURES[name]}, {in_words(records, name)}" for name in names
        )
        found.append(Picture("_and_".join(names), f"{alt}.", draw(records, names)))
    return found


def draw(records: list[Record], names: tuple[str, ...]) -> plt.Figure:
    """Draw some measures, a row each."""
    steps = range(0, records[0]["steps"], records[0]["every"])
    figure, rows = plt.subplots(
        len(names), len(RATES), sharex=True, sharey="row", squeeze=False,
        figsize=(WIDTH, 1 + 2.2 * len(names)),
    )  # fmt: skip
    for row, name in zip(rows, names, strict=True):
        for ax, lr in zip(row, RATES, strict=True):
            for kind, (label, color) in KINDS.items():
                median_and_spread(ax, steps, series(records, kind, lr, name), color, label)
            ax.set_yscale("linear" if name == "accuracy" else "log")
        row[0].set_ylabel(AXES.get(name, MEASURES[name]))
    for ax, lr in zip(rows[0], RATES, strict=True):
        ax.set_title(f"rate {lr:g}")
    rows[-1, len(RATES) // 2].set_xlabel("step of training")
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def verdict(records: list[Record]) -> Verdict:
    """Compare the kinds at every learning rate, in every seed."""
    of = {
        (name, kind): np.array([typical(records, kind, lr, name) for lr in RATES])
        for name, kind in itertools.product(MEASURES, KINDS)
    }
    accuracies = [of["accuracy", kind] for kind in KINDS]
    parts = {
        f"with BatchNorm a smaller {MEASURES[name]}": of[name, "batch_norm"] < of[name, "plain"]
        for name in ("loss", "gradient", "smoothness")
    } | {
        "with noise as accurate as with BatchNorm": accuracies[2] >= accuracies[0] - AS_WELL,
        "with noise more accurate than plain": accuracies[2] > accuracies[1],
        "with noise more movement than plain": of["movement", "noisy"] > of["movement", "plain"],
    }

    def ratios(name: str, kind: str) -> str:
        """Return a measure in units of the plain network's, for each learning rate."""
        ours, plain = (np.median(of[name, k], axis=1) for k in (kind, "plain"))
        with np.errstate(all="ignore"):  # those that diverged are infinite
            found = ours / plain
        return " / ".join(f"{ratio:.2g}" for ratio in found)

    return Verdict(
        {name: bool(np.all(held)) for name, held in parts.items()},
        f"at learning rates {' / '.join(f'{lr:g}' for lr in RATES)} the range of the loss is "
        f"{ratios('loss', 'batch_norm')} times that of the plain network, the change of the "
        f"gradient {ratios('gradient', 'batch_norm')} and the effective smoothness "
        f"{ratios('smoothness', 'batch_norm')} times; with noise the distributions move "
        f"{ratios('movement', 'noisy')} times as far as in the plain network, and the test "
        f"accuracy is {in_words(records, 'accuracy')}",
    )


def in_words(records: list[Record], name: str) -> str:
    """Return a measure by kind and learning rate in words."""
    kinds = []
    for kind, (label, _) in KINDS.items():
        values = (np.median(typical(records, kind, lr, name)) for lr in RATES)
        kinds.append(f"{' / '.join(f'{value:.2g}' for value in values)} {label}")
    return ", ".join(kinds)


def table(records: list[Record]) -> list[list[str]]:
    """Return the medians over training, by learning rate and kind."""
    rows = [["learning rate", "network", *MEASURES.values(), "test accuracy at the last look"]]
    for lr, kind in itertools.product(RATES, KINDS):
        row = [f"{lr:g}", KINDS[kind][0]]
        row += [spread(typical(records, kind, lr, name)) for name in MEASURES]
        row.append(spread(series(records, kind, lr, "accuracy")[:, -1]))
        rows.append(row)
    return rows


def series(records: list[Record], kind: str, lr: float, name: str) -> np.ndarray:
    """Return a measure by seed and look, NaN where the network has diverged."""
    return np.array([r[name] for r in records if (r["kind"], r["lr"]) == (kind, lr)], float)


def typical(records: list[Record], kind: str, lr: float, name: str) -> np.ndarray:
    """Return the median over training, for each seed; of accuracy, the mean.

    A network that has diverged counts as infinitely rough, and as one that guesses.
    """
    values = series(records, kind, lr, name)
    if name == "accuracy":
        return np.nan_to_num(values, nan=1 / CLASSES).mean(axis=1)
    return np.median(np.where(np.isnan(values), np.inf, values), axis=1)
