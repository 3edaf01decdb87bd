"""Learning rates and initialisation: how much of the map trains."""

import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

import npbn
from examples.lab.experiment import Budget, Digits, Picture, Record, Trial, Verdict, spread
from examples.lab.networks import accuracy, he_normal, mlp, train

TITLE = "Learning rate and initialisation"
QUESTION = "Does BatchNorm tolerate larger learning rates and careless initialisation?"
CLAIM = "BatchNorm allows much higher learning rates and less care about initialisation"
SOURCE = "Ioffe and Szegedy 2015, arXiv:1502.03167, abstract and section 3.3"
IDEA = """
A step of gradient descent moves the weights by the learning rate times the gradient. If the rate is
too large, or the weights start too large or too small, signals explode or vanish from layer to
layer, and nothing is learnt. BatchNorm rescales the signal in every layer: multiply the weights
before it by 10 and its output stays the same, while the gradient of those weights becomes 10 times
smaller (Ioffe and Szegedy, section 3.3), as long as their variance is large against eps. So the
size of the weights should matter little, and a step that is too large makes the weights larger and
thereby the next steps smaller.

Here one small network is trained for a fixed number of steps with every combination of learning
rate and scale of the initial weights (1 is He's initialisation), with BatchNorm and without. The
figure to look at is the share of the map in which the network learns at all.
"""

CHANCE = np.log(10)  # loss of a network that knows nothing
TRAINS = 0.8  # test accuracy from which a network has learnt; others stand in the table
# Grid points per decade, steps, seeds.
BUDGETS = {"quick": (1, 100, 2), "default": (2, 400, 5), "full": (4, 2000, 5)}


def trials(budget: Budget) -> list[Trial]:
    """Learning rate from 1e-4 to 10, scale of the weights from 1e-3 to 10."""
    per_decade, steps, seeds = BUDGETS[budget]
    rates, scales = (
        np.logspace(low, 1, (1 - low) * per_decade + 1).round(10).tolist() for low in (-4, -3)
    )
    return [
        {"batch_norm": norm, "lr": lr, "scale": scale, "steps": steps, "seed": seed}
        for norm, lr, scale, seed in itertools.product((True, False), rates, scales, range(seeds))
    ]


def seconds(trial: Trial) -> float:
    """Return about how long a trial takes."""
    return 0.0006 * trial["steps"]


def run(trial: Trial, digits: Digits) -> dict[str, Any]:
    """Train one network; return its test accuracy and whether it diverged.

    It did if its loss was ever ten times that of the first step; a network that blows up is often
    dead afterwards, with a constant output and the loss of chance.
    """
    rng = np.random.default_rng(trial["seed"])
    norm = npbn.BatchNorm1d if trial["batch_norm"] else None
    net = mlp(digits, [100, 100], norm, rng, init=he_normal(trial["scale"]))
    losses = train(net, digits, trial["lr"], trial["steps"], rng)
    start = max(losses[0], CHANCE)
    blew_up = not np.isfinite(losses).all() or losses.max() > 10 * start
    return {"accuracy": accuracy(net, digits), "diverged": bool(blew_up)}


def pictures(records: list[Record]) -> list[Picture]:
    """Draw the two maps of test accuracy."""
    found = []
    for norm, name in ((True, "with"), (False, "without")):
        share = np.median(area(records, norm))
        alt = (
            f"Heat map of test accuracy {name} BatchNorm over learning rate and scale of the "
            f"initial weights: {share:.0%} of the combinations reach {TRAINS:.0%}."
        )
        found.append(Picture(f"map_{name}", alt, heat_map(records, norm, f"{name} BatchNorm")))
    return found


def heat_map(records: list[Record], batch_norm: bool, title: str) -> plt.Figure:
    """Draw the median over the seeds; a cross where most of them diverged."""
    rates, scales, _ = axes(records)
    accuracy = np.median(grid(records, batch_norm, "accuracy"), axis=2)
    diverged = np.mean(grid(records, batch_norm, "diverged"), axis=2) > 0.5
    figure, ax = plt.subplots()
    mesh = ax.pcolormesh(edges(rates), edges(scales), accuracy, vmin=0, vmax=1, cmap="viridis")
    row, column = np.nonzero(diverged)
    ax.plot(np.array(rates)[column], np.array(scales)[row], "x", color="white", ms=4)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", title=title)
    ax.set_ylabel("scale of initial weights (1: He)")
    figure.colorbar(mesh, label="test accuracy (cross: diverged)")
    return figure


def edges(values: list[float]) -> np.ndarray:
    """Return the borders of cells around evenly spaced points of a logarithmic axis."""
    half = (values[1] / values[0]) ** 0.5
    return np.append(np.array(values) / half, values[-1] * half)


def verdict(records: list[Record]) -> Verdict:
    """Compare the whole map, its best row and its best column."""
    shares = [area(records, norm) for norm in (True, False)]
    rates = [most(records, norm, "lr") for norm in (True, False)]
    scales = [most(records, norm, "scale") for norm in (True, False)]
    names = "more of the map trains", "more learning rates train", "more scales train"
    pairs = zip(names, (shares, rates, scales), strict=True)
    all_rates, all_scales, _ = axes(records)
    return Verdict(
        {name: bool(min(a) > max(b)) for name, (a, b) in pairs},
        f"{np.median(shares[0]):.0%} of the map trains with BatchNorm, "
        f"{np.median(shares[1]):.0%} without; at the best scale {np.median(rates[0]):.0f} of "
        f"{len(all_rates)} learning rates train against {np.median(rates[1]):.0f}, at the best "
        f"learning rate {np.median(scales[0]):.0f} of {len(all_scales)} scales against "
        f"{np.median(scales[1]):.0f}",
    )


def table(records: list[Record]) -> list[list[str]]:
    """Return the area by threshold, so that nobody has to trust in the one chosen."""
    rows = [["trains from a test accuracy of", "with BatchNorm", "without"]]
    for threshold in (0.5, 0.7, TRAINS, 0.85, 0.9):
        shares = (spread(area(records, norm, threshold), "{:.0%}") for norm in (True, False))
        rows.append([f"{threshold:.0%}", *shares])
    return rows


def axes(records: list[Record]) -> list[list[float]]:
    """Return the learning rates, scales and seeds of the map."""
    return [sorted({r[name] for r in records}) for name in ("lr", "scale", "seed")]


def grid(records: list[Record], batch_norm: bool, name: str) -> np.ndarray:
    """Return a result by scale, learning rate and seed."""
    rates, scales, seeds = axes(records)
    values = {
        (r["scale"], r["lr"], r["seed"]): r[name] for r in records if r["batch_norm"] is batch_norm
    }
    return np.array([[[values[s, lr, seed] for seed in seeds] for lr in rates] for s in scales])


def area(records: list[Record], batch_norm: bool, trains: float = TRAINS) -> np.ndarray:
    """Return the share of the map that trains, for each seed."""
    return (grid(records, batch_norm, "accuracy") >= trains).mean(axis=(0, 1))


def most(records: list[Record], batch_norm: bool, name: str) -> np.ndarray:
    """Return how many values of one axis train at the best place of the other, for each seed."""
    axis = 1 if name == "lr" else 0
    trained = grid(records, batch_norm, "accuracy") >= TRAINS
    return trained.sum(axis=axis).max(axis=0)
