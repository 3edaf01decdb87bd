"""Depth: signals and learning rates in networks of 1 to 32 hidden layers."""

import copy
import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.drawing import WIDTH, WITH, WITHOUT, median_and_spread
from examples.lab.experiment import Budget, Digits, Picture, Record, Trial, Verdict, spread
from examples.lab.networks import accuracy, he_normal, mlp, train

TITLE = "Depth"
QUESTION = "Does BatchNorm keep the signals of deep networks of one size, and learning rates large?"
CLAIM = (
    "without BatchNorm activations and gradients change their size with depth, and only small "
    "learning rates train deep networks; with BatchNorm activations keep it, and larger ones train"
)
SOURCE = (
    "Bjorck, Gomes, Selman and Weinberger 2018, Understanding Batch Normalization, arXiv:1806.02375"
)
IDEA = """
Every layer multiplies what comes in by its weights. If it makes the signal a little larger or
smaller on average, many layers make it explode or vanish, and the gradients on their way back
likewise; a learning rate that suits one layer is then too large or too small for the others. He's
initialisation is made to keep the scale of ReLU networks, torch's default for Linear is not.
BatchNorm sets the scale anew in every layer, whatever the weights are. For activations that
settles it; the gradient on its way back passes through each normalisation, too, and need not stay
as it is (Yang et al. 2019, arXiv:1902.08129, compute that it grows with depth).

Here networks of several depths, with both initialisations, with and without BatchNorm, learn for
a fixed number of steps at every learning rate of a grid. Measured are the test accuracy, and, at
initialisation and at the end, of every hidden layer the outputs of its ReLU (the mean, and the
spread over the images) and the norm of the gradient of its weights.
"""

WIDTH_OF_LAYERS = 64
TRAINS = 0.5  # test accuracy from which a network has learnt; others stand in the table
UNEVEN = 10  # from this ratio of largest to smallest layer a signal is not of one size
PROBED = 256  # images that the signals are measured with
INITS = {"He": he_normal(), "default": None}
LINES = {"He": "-", "default": "--"}
KINDS = {True: ("with", WITH), False: ("without", WITHOUT)}
# Depths, learning rates per decade, steps, seeds. 62 steps are a pass over 4,000 digits.
BUDGETS = {
    "quick": ((1, 4, 8), 1, 40, 2),
    "default": ((1, 2, 4, 8, 16, 32), 2, 250, 3),
    "full": ((1, 2, 4, 8, 16, 32), 4, 500, 5),
}


def trials(budget: Budget) -> list[Trial]:
    """Learning rate from 1e-4 to 10, by depth, initialisation and BatchNorm."""
    depths, per_decade, steps, seeds = BUDGETS[budget]
    rates = np.logspace(-4, 1, 5 * per_decade + 1).round(10).tolist()
    return [
        {"batch_norm": norm, "init": init, "depth": depth, "lr": lr, "steps": steps, "seed": seed}
        for norm, init, depth, lr, seed in itertools.product(
            KINDS, INITS, depths, rates, range(seeds)
        )
    ]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes."""
    per_layer = 0.0002 if trial["batch_norm"] else 0.00007
    return (trial["steps"] + 10) * (0.0005 + per_layer * trial["depth"])


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return its test accuracy, and its signals before and after."""
    rng = np.random.default_rng(trial["seed"])
    norm = npbn.BatchNorm1d if trial["batch_norm"] else None
    net = mlp(digits, [WIDTH_OF_LAYERS] * trial["depth"], norm, rng, init=INITS[trial["init"]])
    start = signals(net, digits)
    train(net, digits, trial["lr"], trial["steps"], rng)
    return {"accuracy": accuracy(net, digits), "start": start, "end": signals(net, digits)}


def signals(net: npbn.Sequential, digits: Digits) -> dict[str, list[float]]:
    """Return mean, spread and gradient norm of every hidden layer, in training mode."""
    # A copy, whose running statistics nobody needs; in float64, since after some layers the spread
    # is too small beside the mean for float32.
    net = copy.deepcopy(net).double()
    found: dict[str, list[float]] = {"mean": [], "spread": [], "gradient": []}
    x = digits.train_images[:PROBED].astype(np.float64)
    for layer in net:
        x = layer(x)
        if isinstance(layer, npbn.ReLU):
            found["mean"].append(float(x.mean()))
            found["spread"].append(float(np.sqrt(x.var(axis=0).mean())))
    criterion = npbn.CrossEntropyLoss()
    criterion(x, digits.train_labels[:PROBED])
    grad = criterion.backward()
    for layer in reversed(list(net)):
        grad = layer.backward(grad)
    linear = [layer for layer in net if isinstance(layer, npbn.Linear)]
    found["gradient"] = [float(np.linalg.norm(layer.weight.grad)) for layer in linear[:-1]]
    return found


def pictures(records: list[Record]) -> list[Picture]:
    """Draw the largest learning rates by depth, and the signals of the deepest network."""
    deepest, lr, steps = axis(records, "depth")[-1], rate_to_show(records), records[0]["steps"]
    found = [
        Picture(
            "rates",
            "Largest learning rate that trains, over the depth of the network, two panels: "
            + "; ".join(f"{init} weights, {rate_words(records, init)}" for init in INITS)
            + ".",
            draw_rates(records),
        )
    ]
    for name, when in (
        ("start", "at initialisation"),
        ("end", f"after {steps} steps at rate {lr:.2g} (no line: diverged)"),
    ):
        alt = (
            f"Mean and spread of the activations and norm of the gradient, layer by layer, "
            f"{deepest} hidden layers, {when}. Largest over smallest layer: "
            + "; ".join(f"{init} weights, {size_words(records, init, name)}" for init in INITS)
            + "."
        )
        found.append(Picture(name, alt, draw_signals(records, name, when)))
    return found


def draw_rates(records: list[Record]) -> plt.Figure:
    """Draw the largest learning rate that trains over depth; a panel for each initialisation."""
    depths, rates = axis(records, "depth"), axis(records, "lr")
    none = rates[0] ** 2 / rates[1]  # a place below all others
    figure, panels = plt.subplots(1, len(INITS), sharey=True)
    for ax, init in zip(panels, INITS, strict=True):
        for norm, (name, color) in KINDS.items():
            values = largest(records, norm, init)
            median_and_spread(ax, depths, np.where(values, values, none), color, name)
        ax.set(xscale="log", yscale="log", xlabel="hidden layers", title=f"{init} weights")
        ax.set_xticks(depths, map(str, depths))
        ax.minorticks_off()
        ticks = [rate for rate in rates if np.isclose(np.log10(rate) % 1, 0)]
        ax.set_yticks([none, *ticks], ["none", *(f"{rate:g}" for rate in ticks)])
    panels[0].set_ylabel(f"largest rate with accuracy ≥ {TRAINS:.0%}")
    lines, names = panels[0].get_legend_handles_labels()
    names = [f"{name} BatchNorm" for name in names]
    figure.legend(lines, names, loc="outside upper center", ncols=2)
    return figure


def draw_signals(records: list[Record], when: str, title: str) -> plt.Figure:
    """Draw the three signals of the deepest network, layer by layer."""
    deepest, lr = axis(records, "depth")[-1], rate_to_show(records)
    figure, panels = plt.subplots(3, 1, sharex=True, figsize=(WIDTH, 6.4))
    labels = {"mean": "mean of\nactivations", "spread": "their spread\nover images"}
    labels["gradient"] = "norm of\nweights' gradient"
    for ax, (signal, label) in zip(panels, labels.items(), strict=True):
        for norm, init in itertools.product(KINDS, INITS):
            name, color = KINDS[norm]
            values = [r[when][signal] for r in chosen(records, norm, init, deepest, lr)]
            layers = range(1, deepest + 1)
            median_and_spread(ax, layers, values, color, f"{name} BatchNorm, {init}")
            ax.lines[-1].set_linestyle(LINES[init])
        ax.set(yscale="log", ylabel=label)
        ax.tick_params(axis="y", which="minor", labelleft=False)
    panels[-1].set_xlabel("hidden layer")
    figure.suptitle(f"{deepest} hidden layers, {title}", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def verdict(records: list[Record]) -> Verdict:
    """Compare, in every seed, depths, networks with and without BatchNorm, and layers."""
    deepest = axis(records, "depth")[-1]
    rates = {
        norm: np.array([largest(records, norm, init) for init in INITS]) for norm in KINDS
    }  # by initialisation, seed, depth
    ratios = {
        (norm, signal): np.array(
            [unevenness(records, norm, init, signal, deepest, "start") for init in INITS]
        )
        for norm, signal in itertools.product(KINDS, ("spread", "gradient"))
    }
    deep = f"{deepest} layers at the start, both initialisations"
    parts = {
        "without BatchNorm the deepest net needs smaller learning rates than the shallowest":
            np.all(rates[False][..., -1] < rates[False][..., 0]),
        "with it the largest learning rate is larger at every depth":
            np.all(rates[True] > rates[False]),
        f"without it activations change their size, {deep}":
            np.all(ratios[False, "spread"] >= UNEVEN),
        f"without it gradients change theirs, {deep}": np.all(ratios[False, "gradient"] >= UNEVEN),
        f"with it activations keep their size, {deep}": np.all(ratios[True, "spread"] < UNEVEN),
    }  # fmt: skip
    more = np.mean(rates[True] > rates[False])
    by_init = "; ".join(f"{init} weights, {size_words(records, init, 'start')}" for init in INITS)
    return Verdict(
        {name: bool(held) for name, held in parts.items()},
        f"with BatchNorm the largest learning rate is larger in {more:.0%} of the comparisons "
        f"(depth, initialisation, seed); from layer to layer of {deepest}, at the start, with and "
        f"without BatchNorm: {by_init}",
    )


def rate_words(records: list[Record], init: str) -> str:
    """Return the largest learning rates at both ends of the depths in words."""
    depths = axis(records, "depth")
    ends = {norm: np.median(largest(records, norm, init), axis=0)[[0, -1]] for norm in KINDS}
    parts = (
        f"{' and '.join(f'{rate:.2g}' if rate else 'none' for rate in ends[norm])} {name} BatchNorm"
        for norm, (name, _) in KINDS.items()
    )
    return f"at {depths[0]} and {depths[-1]} layers " + ", ".join(parts)


def size_words(records: list[Record], init: str, when: str) -> str:
    """Return the ratios of largest to smallest layer of the deepest network in words."""
    deepest, parts = axis(records, "depth")[-1], []
    for signal, plural in (("spread", "activations"), ("gradient", "gradients")):
        ratios = (
            f"{fold(np.median(unevenness(records, norm, init, signal, deepest, when)))} {name}"
            for norm, (name, _) in KINDS.items()
        )
        parts.append(f"{plural} differ {', '.join(ratios)}")
    return ", ".join(parts)


def fold(ratio: float) -> str:
    """Return a ratio in words; that of activations which have overflowed is infinite."""
    if not np.isfinite(ratio):
        return "diverged"
    if ratio < 100:
        return f"{ratio:.2g}-fold"
    return f"{float(f'{ratio:.2g}'):,.0f}-fold" if ratio < 1e6 else f"10^{np.log10(ratio):.0f}-fold"


def table(records: list[Record]) -> list[list[str]]:
    """Return the largest learning rates by threshold, and how uneven the layers are."""
    thresholds = (0.3, TRAINS, 0.7)
    head = ["weights", "layers", "BatchNorm"]
    head += [f"largest rate (0: none) from {threshold:.0%}" for threshold in thresholds]
    rows = [[*head, "spread, largest / smallest layer, at start", "gradient, likewise"]]
    for init, (i, depth), norm in itertools.product(
        INITS, enumerate(axis(records, "depth")), KINDS
    ):
        row = [init, str(depth), KINDS[norm][0]]
        row += [spread(largest(records, norm, init, t)[:, i], "{:.2g}") for t in thresholds]
        for signal in ("spread", "gradient"):
            ratios = unevenness(records, norm, init, signal, depth, "start")
            row.append(spread(ratios, "{:.2g}"))
        rows.append(row)
    return rows


def axis(records: list[Record], name: str) -> list[Any]:
    """Return the values that the trials have of `name`."""
    return sorted({r[name] for r in records})


def chosen(records: list[Record], norm: bool, init: str, depth: int, lr: float) -> list[Record]:
    """Return the records of one network at one learning rate, a seed each."""
    wanted = (norm, init, depth, lr)
    return [r for r in records if (r["batch_norm"], r["init"], r["depth"], r["lr"]) == wanted]


def largest(records: list[Record], norm: bool, init: str, trains: float = TRAINS) -> np.ndarray:
    """Return the largest learning rate that trains by seed and depth, 0 where none does."""
    found = dict.fromkeys(itertools.product(axis(records, "seed"), axis(records, "depth")), 0.0)
    for r in records:
        if (r["batch_norm"], r["init"]) == (norm, init) and r["accuracy"] >= trains:
            place = r["seed"], r["depth"]
            found[place] = max(found[place], r["lr"])
    return np.reshape(list(found.values()), (len(axis(records, "seed")), -1))


def unevenness(
    records: list[Record], norm: bool, init: str, signal: str, depth: int, when: str
) -> np.ndarray:
    """Return the ratio of the largest to the smallest layer, for each seed."""
    found = chosen(records, norm, init, depth, rate_to_show(records))
    values = np.array([r[when][signal] for r in found], float)
    values[~np.isfinite(values)] = np.inf
    with np.errstate(all="ignore"):
        ratios = values.max(axis=1) / values.min(axis=1)
    return np.where(np.isfinite(ratios), ratios, np.inf)


def rate_to_show(records: list[Record]) -> float:
    """Return the learning rate of the pictures of the deepest network, with He's weights.

    The largest at which both kinds train by the median over the seeds; if there is none, that
    at which the one with BatchNorm is most accurate.
    """
    deepest, rates = axis(records, "depth")[-1], axis(records, "lr")
    with_norm, without = (
        [
            np.median([r["accuracy"] for r in chosen(records, norm, "He", deepest, lr)])
            for lr in rates
        ]
        for norm in KINDS
    )
    both = [
        lr for lr, *found in zip(rates, with_norm, without, strict=True) if min(found) >= TRAINS
    ]
    return max(both, default=rates[int(np.argmax(with_norm))])
