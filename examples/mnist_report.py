"""What mnist_compare shows: its tables, its pictures and results.json."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

import npbn

matplotlib.use("Agg")  # files alone, no window
from matplotlib import pyplot as plt

QUANTITIES = {
    "logits": "logits",
    "gradients": "gradients",
    "parameters": "parameters",
    "running_stats": "running stats",
}
TESTS = {
    "batchnorm_train_mode": "BatchNorm, train mode",
    "batchnorm_eval_mode": "BatchNorm, eval mode",
    "plain_eval_mode": "plain, eval mode",
}
COLORS = {"with BatchNorm": "#0072b2", "without BatchNorm": "#d55e00"}  # told apart by everyone


class Test(NamedTuple):
    """The evaluations on one set of images: test name to library to result."""

    images: str
    found: dict[str, dict[str, npbn.Evaluation]]


def print_header(run) -> None:
    """Print the head of the table of epochs."""
    both = run.model is not None
    print(f"\n{run.title}")
    print(f"{'':5}  {'training loss':^19}  {'seconds':^13}  {'samples/s':^15}", end="")
    print(f"  {'largest difference so far in':^50}" if both else "")
    print(
        f"epoch  {'npbn':>9} {'torch':>9}  {'npbn':>6} {'torch':>6}  {'npbn':>7} {'torch':>7}",
        end="",
    )
    print("  " + " ".join(f"{title:>13}" for title in QUANTITIES.values()) if both else "")


def gain_line(run) -> str:
    """Return what the compiled engine gains."""
    return f"a step of npbn: {run.gain:.2f} times as fast as with the NumPy engine, in turn with it"


def epoch_line(run, epoch: int, samples: int) -> str:
    """Return the row of the latest epoch."""
    losses, seconds, speeds = [], [], []
    for library in ("npbn", "torch"):
        if library not in run.losses:
            losses.append(f"{'-':>9}")
            seconds.append(f"{'-':>6}")
            speeds.append(f"{'-':>7}")
            continue
        losses.append(f"{run.losses[library][-1]:9.6f}")
        seconds.append(f"{run.seconds[library][-1]:6.2f}")
        speeds.append(f"{samples / run.seconds[library][-1]:7.0f}")
    differences = []
    for quantity in QUANTITIES if run.differences else ():
        applies = quantity != "running_stats" or any(True for _ in run.net.named_buffers())
        so_far = float(np.max(run.differences[quantity]))
        differences.append(f"{so_far:13.1e}" if applies else f"{'-':>13}")
    columns = (losses, seconds, speeds, differences)
    return f"{epoch:5}  " + "  ".join(" ".join(column) for column in columns if column)


def print_tests(test: Test) -> None:
    """Print loss, accuracy and the correct answers of each class."""
    found = test.found
    totals = found["batchnorm_eval_mode"]["npbn"].total
    print(
        f"\non the {totals.sum()} {test.images}: loss, accuracy, and how many are right per class"
    )
    print(f"{'':29} {'loss':>8} {'accuracy':>9}  " + "".join(f"{c:>6}" for c in range(len(totals))))
    for name, title in TESTS.items():
        for library, evaluation in found[name].items():
            summary = f"{evaluation.loss:8.4f} {evaluation.accuracy:8.2%}"
            correct = "".join(f"{count:>6}" for count in evaluation.correct)
            print(f"{title:23}{library:>6} {summary}  {correct}")
    print(f"{'images of the class':47}  " + "".join(f"{count:>6}" for count in totals))


def max_abs_diff(runs) -> dict[str, float | None]:
    """Return the largest difference of each quantity over both networks; NaN if any is."""
    return {
        quantity: float(np.max([run.differences[quantity] for run in runs]))
        if runs[0].differences
        else None
        for quantity in QUANTITIES
    }


def results(options, runs, test: Test) -> dict:
    """Return what results.json holds."""
    with_batch_norm, plain = runs
    libraries = ("npbn", "torch")
    return {
        "network": options.network,
        "dataset": str(options.data),
        "dtype": options.dtype,
        "engine": options.engine,
        "engine_gain": {"batchnorm": with_batch_norm.gain, "plain": plain.gain},
        "epochs": options.epochs,
        "max_abs_diff": max_abs_diff(runs),
        "test_accuracy": {
            library: {
                name: found[library].accuracy if library in found else None
                for name, found in test.found.items()
            }
            for library in libraries
        },
        "seconds": {
            library: sum(sum(run.seconds[library]) for run in runs)
            if library in with_batch_norm.seconds
            else None
            for library in libraries
        },
        "losses": {
            library: {
                "batchnorm": with_batch_norm.losses.get(library),
                "plain": plain.losses.get(library),
            }
            for library in libraries
        },
    }


def save(folder: Path, runs, results: dict) -> None:
    """Write results.json and the pictures, in place of an earlier run's."""
    text = json.dumps(_finite(results), indent=2, allow_nan=False) + "\n"
    (folder / "results.json").write_text(text)
    written = ["results.json", "losses.png"]
    _plot_losses(runs, folder / "losses.png")
    if runs[0].differences:
        _plot_differences(runs, results["dtype"], folder / "agreement.png")
        written.append("agreement.png")
    else:
        (folder / "agreement.png").unlink(missing_ok=True)  # an earlier run's
    print(f"\nwritten to {folder}: {', '.join(written)}")


def _finite(value):
    """Replace NaN and infinity, which JSON has not, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plot_losses(runs, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for run in runs:
        epochs = np.arange(1, len(run.losses["npbn"]) + 1)
        color = COLORS[run.title]
        axes.plot(epochs, run.losses["npbn"], color=color, label=f"npbn, {run.title}")
        if "torch" in run.losses:
            axes.plot(
                epochs,
                run.losses["torch"],
                "o",
                mfc="none",
                color=color,
                label=f"torch, {run.title}",
            )
    axes.set(xlabel="epoch", ylabel="training loss (mean cross-entropy)", ylim=(0, None))
    axes.set_title("Training loss of the same network with and without BatchNorm")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_differences(runs, dtype: str, path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, run in zip(panels, runs, strict=True):
        for quantity, title in QUANTITIES.items():
            differences = np.array(run.differences[quantity])
            if differences.any():  # a plain network has no running statistics
                steps = np.arange(1, len(differences) + 1)
                axes.plot(steps, np.where(differences > 0, differences, np.nan), label=title, lw=1)
        axes.axhline(np.finfo(dtype).eps, color="0.5", ls=":", lw=1)
        axes.annotate(
            f"eps of {dtype}", (len(differences), np.finfo(dtype).eps), ha="right", va="bottom"
        )
        axes.set(yscale="log", xlabel="step", title=f"{run.title}, {dtype}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("largest absolute difference\nbetween npbn and torch")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
