"""The rounding error of float32 BatchNorm against |mean| / std, npbn beside others.

The truth is :mod:`npbn.testing.oracle`. Errors are in units of eps32 on the measure of npbn's
accuracy contract (:mod:`npbn.testing.tolerances`), and the largest over all seeds and shapes.
npbn takes part with each of its engines, which keep the same contract.
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import npbn
from benchmarks.machine import processor
from npbn.testing import oracle
from npbn.testing.case import Setup, Step
from npbn.testing.tolerances import GRADIENT_K, contract

SHAPES = ((16, 64), (64, 256), (8192, 40), (32, 16, 28))
SEEDS = 10
PROMISED = 1e6  # the contract's largest |mean| / std
EPS = float(np.finfo(np.float32).eps)
BOUNDS = {"y": 1, "grad_input": 4, "running_mean": 2, "running_var": 2}  # the contract's, in eps
TITLES = {
    "y": "output",
    "grad_input": "gradient of the input",
    "running_mean": "running mean",
    "running_var": "running variance",
}
MEASURES = {
    "y": "max(1, |weight · x̂|, |bias|)",
    "grad_input": "Σ|terms|",
    "running_mean": "max(|running mean|, std)",
    "running_var": "running variance",
}


class Results(NamedTuple):
    """What a contender makes of one training step, in float32."""

    y: np.ndarray
    grad_input: np.ndarray
    running_mean: np.ndarray
    running_var: np.ndarray


SQUARES = "variance as E[x²] - E[x]²"
Contender = Callable[[Setup, Step], Results]
Shape = tuple[int, ...]


# -- the contenders -----------------------------------------------------------------------------


def by_npbn(engine: str, setup: Setup, step: Step) -> Results:
    """Take the step with npbn's layer."""
    layer = npbn.BatchNorm1d(setup.num_features, setup.eps, setup.momentum)
    layer.weight.data[...], layer.bias.data[...] = setup.weight, setup.bias
    with npbn.using_engine(engine):
        y = layer(step.x)
        grad_input = layer.backward(step.grad_output)
    return Results(y, grad_input, layer.running_mean, layer.running_var)


def compiled_contender() -> Contender | None:
    """Return npbn with its compiled engine, or None without numba."""
    return partial(by_npbn, "numba") if importlib.util.find_spec("numba") else None


def torch_contender() -> Contender | None:
    """Return torch's BatchNorm, on one thread, or None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)

    def by_torch(setup: Setup, step: Step) -> Results:
        layer = torch.nn.BatchNorm1d(setup.num_features, setup.eps, setup.momentum)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(setup.weight))
            layer.bias.copy_(torch.from_numpy(setup.bias))
        x = torch.from_numpy(step.x).requires_grad_()
        y = layer(x)
        y.backward(torch.from_numpy(step.grad_output))
        results = (y.detach(), x.grad, layer.running_mean, layer.running_var)
        return Results(*(result.numpy() for result in results))

    return by_torch


def textbook(setup: Setup, step: Step, squares: bool = False) -> Results:
    """Take the step as a textbook has it, all in float32.

    With `squares` the variance is E[x²] − E[x]², and 0 where that is negative.
    """
    x, g = step.x, step.grad_output
    axes = (0, *range(2, x.ndim))

    def mean_of(values: np.ndarray) -> np.ndarray:
        return values.mean(axes, keepdims=True)

    mean = mean_of(x)
    var = x.var(axes, keepdims=True)
    if squares:
        var = np.maximum(mean_of(x * x) - mean * mean, 0)
    weight, bias = (values.reshape(mean.shape) for values in (setup.weight, setup.bias))
    inv_std = 1 / np.sqrt(var + np.float32(setup.eps))
    x_hat = (x - mean) * inv_std
    grad_input = weight * inv_std * (g - mean_of(g) - x_hat * mean_of(g * x_hat))
    count = x.size // setup.num_features
    unbiased = var * np.float32(count / (count - 1))
    return Results(weight * x_hat + bias, grad_input, mean.ravel(), unbiased.ravel())


def contenders() -> dict[str, Contender]:
    """Return those that are installed, by name."""
    found = {
        "npbn numba": compiled_contender(),
        "npbn numpy": partial(by_npbn, "numpy"),
        "torch": torch_contender(),
        "textbook": textbook,
        SQUARES: lambda setup, step: textbook(setup, step, squares=True),
    }
    return {name: contender for name, contender in found.items() if contender is not None}


# -- measuring ----------------------------------------------------------------------------------


def draw(rng: np.random.Generator, shape: tuple[int, ...], ratio: float) -> tuple[Setup, Step]:
    """Draw a training step whose channels have |mean| / std about `ratio`, at std 0.1 to 10.

    With momentum 1 the running statistics are the batch's own: nothing hides their error.
    """
    channels = shape[1]
    std = 10 ** rng.uniform(-1, 1, channels)
    mean = rng.choice([-1, 1], channels) * ratio * std
    ndim = (-1, *(1,) * (len(shape) - 2))
    x = rng.normal(size=shape) * std.reshape(ndim) + mean.reshape(ndim)
    grad_output = rng.normal(size=shape)
    weight, bias = rng.normal(size=(2, channels)).astype(np.float32)
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    setup = Setup(channels, 1e-5, 1.0, weight, bias, zeros, ones)
    return setup, Step(x.astype(np.float32), True, grad_output.astype(np.float32))


def errors_of(results: Results, setup: Setup, step: Step, exact: oracle.Exact) -> dict[str, float]:
    """Return the largest error of each quantity, in eps32 on the contract's measure."""
    units = units_of(setup, step, exact)
    return {
        name: float(np.max(np.abs(getattr(results, name) - getattr(exact, name)) / units[name]))
        for name in BOUNDS
    }


def units_of(setup: Setup, step: Step, exact: oracle.Exact) -> dict[str, np.ndarray]:
    """Return one eps32 on the measure of each quantity: MEASURES."""
    along = (-1, *(1,) * (step.x.ndim - 2))
    weight, bias = (
        np.abs(values.reshape(along), dtype=np.float64) for values in (setup.weight, setup.bias)
    )
    terms = contract(setup, step, exact).grad_input / GRADIENT_K
    return {
        "y": EPS * np.maximum(1, np.maximum(weight * np.abs(exact.x_hat), bias)),
        "grad_input": terms,
        "running_mean": EPS * np.maximum(np.abs(exact.running_mean), np.sqrt(exact.var)),
        "running_var": EPS * exact.running_var,
    }


def measure(
    ratios: list[float], seeds: int, shapes: Sequence[Shape], found: dict[str, Contender]
) -> dict[str, dict[str, list[float]]]:
    """Return the largest errors as quantity: contender: one number for each ratio."""
    worst = {quantity: {name: [] for name in found} for quantity in BOUNDS}
    print("largest error of the output, in eps32")
    print("|mean| / std  " + "  ".join(found))
    for i, ratio in enumerate(ratios):
        errors = {name: dict.fromkeys(BOUNDS, 0.0) for name in found}
        for seed in range(seeds):
            for shape in shapes:
                setup, step = draw(np.random.default_rng([seed, i, *shape]), shape, ratio)
                exact = oracle.step(setup, step)
                for name, contender in found.items():
                    these = errors_of(contender(setup, step), setup, step, exact)
                    for quantity, error in these.items():
                        errors[name][quantity] = max(errors[name][quantity], error)
        for quantity, lines in worst.items():
            for name, line in lines.items():
                line.append(errors[name][quantity])
        cells = (f"{short(errors[name]['y']):>{len(name)}}" for name in found)
        print(f"{ratio:12.0e}  " + "  ".join(cells), flush=True)
    return worst


# -- showing ------------------------------------------------------------------------------------


def short(error: float) -> str:
    """Write a number with two digits: 0.57, 4.3, 120, 58,000, 3.3e7."""
    rounded = float(f"{error:.1e}")
    if rounded >= 1e6:
        mantissa, exponent = f"{rounded:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if rounded >= 10:
        return f"{rounded:,.0f}"
    return f"{rounded:.1f}" if rounded >= 1 else f"{rounded:.2f}"


def markdown(ratios: list[float], worst: dict[str, dict[str, list[float]]], about: str) -> str:
    """Return a table for each quantity, one row per power of ten."""
    parts = [f"# The rounding error of float32 BatchNorm, in eps32 = {EPS:.2g}\n\n{about}\n"]
    for quantity, lines in worst.items():
        parts.append(
            f"\n## Largest error of the {TITLES[quantity]}, in eps32 · {MEASURES[quantity]}\n\n"
            f"npbn promises {BOUNDS[quantity]} up to |mean| / std = 10⁶.\n\n"
            f"| \\|mean\\| / std | {' | '.join(lines)} |\n|---|{'---|' * len(lines)}\n"
        )
        for i, ratio in enumerate(ratios):
            power = np.log10(ratio)
            if power == round(power):
                cells = " | ".join(short(line[i]) for line in lines.values())
                parts.append(f"| 10{str(round(power)).translate(SUPERSCRIPTS)} | {cells} |\n")
    return "".join(parts)


SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

# Okabe and Ito's colours, told apart by everyone; markers for those who print in grey.
STYLES = {
    "npbn numba": {"color": "#0072b2", "marker": "o"},
    "npbn numpy": {"color": "#0072b2", "marker": "o", "mfc": "none", "ls": "-.", "ms": 7},
    "torch": {"color": "#d55e00", "marker": "s", "mfc": "none", "ms": 8},
    "textbook": {"color": "#009e73", "marker": "^"},
    SQUARES: {"color": "#cc79a7", "marker": "v"},
}
LABELS = {
    "textbook": "NumPy, textbook",
    SQUARES: f"NumPy, {SQUARES}",
}


def plot(path: Path, ratios: list[float], worst: dict[str, dict[str, list[float]]]) -> None:
    """Draw a panel for each quantity."""
    import matplotlib

    matplotlib.use("Agg")  # files alone, no window
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        2, 2, figsize=(9, 6.6), sharex=True, sharey=True, layout="constrained"
    )
    for axes, (quantity, lines) in zip(panels.flat, worst.items(), strict=True):
        for name, line in lines.items():
            axes.plot(ratios, line, label=LABELS.get(name, name), **{"ms": 4, **STYLES[name]})
        bound = BOUNDS[quantity]
        axes.plot([ratios[0], PROMISED], [bound] * 2, "k--", lw=1.2, label="npbn's contract")
        axes.annotate(f"{bound} eps", (PROMISED, bound), (5, -4), textcoords="offset points")
        axes.axhline(1 / EPS, color="0.6", lw=1, ls=":")
        axes.set(xscale="log", yscale="log", ylim=(0.05, 1e9), title=TITLES[quantity])
        axes.grid(alpha=0.3)
    panels[0, 0].annotate(
        "no digit is right", (ratios[0], 1 / EPS), (0, -3), textcoords="offset points", va="top"
    )
    figure.supxlabel("|mean| / std of a channel")
    figure.supylabel("largest error, in units of eps32")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(out: Path, quick: bool, threads: list[int]) -> None:
    """Measure, and write accuracy.json, accuracy.md and accuracy.png into `out`.

    `threads` is what other programs take: errors are those of one thread.
    """
    ratios = [float(10**power) for power in np.arange(0, 7.5, 1 if quick else 0.5)]
    seeds, used = (1, SHAPES[:2]) if quick else (SEEDS, SHAPES)
    found = contenders()
    for package, name in (("numba", "npbn numba"), ("torch", "torch")):
        if name not in found:
            print(f"{package} is not installed: skipped")
    worst = measure(ratios, seeds, used, found)
    shapes = ", ".join(str(shape) for shape in used)
    about = f"The largest over {seeds} drawn batches of each of the shapes {shapes}."
    about = f"Processor: {processor()}. {about}"
    text = {"eps": EPS, "shapes": used, "seeds": seeds, "bounds": BOUNDS, "ratios": ratios}
    text = json.dumps(text | {"errors": worst}, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "accuracy.json").write_text(text + "\n", encoding="utf-8")
    (out / "accuracy.md").write_text(markdown(ratios, worst, about), encoding="utf-8")
    plot(out / "accuracy.png", ratios, worst)
    print(f"written to {out}: accuracy.json, accuracy.md, accuracy.png")
