"""What mnist_mpi shows: its runs, its table, its picture and results.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files alone, no window
from matplotlib import pyplot as plt

FLOAT64_LIMIT = 1e-9  # what two orders of adding in float64 may come to over a whole run
KINDS = {True: "synchronised", False: "not synchronised"}
COLORS = {True: "#0072b2", False: "#d55e00"}  # told apart by everyone
STYLES = ["-", "--", ":", "-."]


@dataclass
class Run:
    """One network, trained on one number of ranks.

    `losses` holds a value per step, of the whole batch; `accuracies`, `seconds` and `by`, the
    ranks that trained it, one per epoch. Only where BatchNorm is synchronised may a run of all
    ranks (`of_all`) go on with another number of them: without, they decide its numbers.
    """

    ranks: int
    synchronised: bool
    of_all: bool
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    by: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Its name in a checkpoint."""
        if self.of_all and self.synchronised:
            return "all ranks, synchronised"
        return f"{self.ranks}, {KINDS[self.synchronised]}"

    def records(self) -> dict[str, list]:
        """Return what was measured."""
        return {name: getattr(self, name) for name in ("losses", "accuracies", "seconds", "by")}


def header(run: Run, ranks: int) -> str:
    """Return the head of a run's table of epochs."""
    groups = "" if run.of_all else f", in {ranks // run.ranks} groups at once"
    plural = "s" * (run.ranks > 1)
    return (
        f"\n{run.ranks} rank{plural}, BatchNorm {KINDS[run.synchronised]}{groups}\n"
        f"epoch  {'training loss':>19}  {'test accuracy':>13}  {'seconds':>7}"
    )


def epoch_line(run: Run, epoch: int, samples: int, batch_size: int) -> str:
    """Return the row of the latest epoch."""
    sizes = np.diff([*range(0, samples, batch_size), samples])
    loss = np.average(run.losses[-len(sizes) :], weights=sizes)
    return f"{epoch:5}  {loss:19.15f}  {run.accuracies[-1]:13.2%}  {run.seconds[-1]:7.2f}"


def differences(runs: list[Run]) -> dict[str, np.ndarray]:
    """Return by run how far its loss is, at each step, from that of one process."""
    (alone,) = (run for run in runs if is_reference(run))
    return {run.key: np.abs(np.subtract(run.losses, alone.losses)) for run in runs}


def is_reference(run: Run) -> bool:
    """Tell whether this is the run of one process with BatchNorm as it always was."""
    return run.ranks == 1 and not run.synchronised


def print_table(runs: list[Run], differences: dict[str, np.ndarray]) -> None:
    """Print how far the numbers of ranks are apart."""
    print(
        "\nlargest difference of a step's loss from that of one process, over "
        f"{len(runs[0].losses)} steps, and test accuracy"
    )
    print("ranks " + "".join(f"{f'BatchNorm {kind}':>30}" for kind in KINDS.values()))
    for ranks in sorted({run.ranks for run in runs}):
        row = f"{ranks:5} "
        for run in runs:
            if run.ranks == ranks:
                largest = f"{differences[run.key].max():.1e}"
                cell = "the one process" if is_reference(run) else largest
                row += f"{cell:>20} {run.accuracies[-1]:9.2%}"
        print(row)
    others = sorted({ranks for run in runs if run.of_all for ranks in run.by} - {runs[0].ranks})
    if others:
        print(
            f"The synchronised run of {runs[0].ranks} was resumed: its epochs were trained by "
            f"{', '.join(map(str, runs[0].by))} ranks."
        )


def verdict(dtype: str, runs: list[Run], differences: dict[str, np.ndarray]) -> int:
    """Say in words how well the numbers of ranks agree; return the exit status."""
    if runs[0].ranks == 1:
        print("\nThis was one rank: mpiexec -n 2 python ... compares it with two.")
        return 0
    largest = float(max(differences[run.key].max() for run in runs if run.synchronised))
    print(f"\nWith synchronised BatchNorm the largest difference is {largest:.1e}", end="")
    if dtype == "float32":
        print(
            ". Ranks add up in another order,\nand float32 keeps 7 digits: where a ReLU's input "
            "comes that close to 0, or two pixels that close\nin a pooling window, gradients go "
            "another way, and from there on the weights differ. With\n--dtype float64 the losses "
            f"stay within {FLOAT64_LIMIT:.0e} of each other."
        )
        return 0
    agreed = largest <= FLOAT64_LIMIT
    print(f", {'below' if agreed else 'NOT below'} the {FLOAT64_LIMIT:.0e} float64 should hold.")
    return 0 if agreed else 1


def save(options, runs: list[Run], differences: dict[str, np.ndarray]) -> None:
    """Write results.json and the picture, in place of an earlier run's."""
    results = {
        "network": options.network,
        "dataset": str(options.data),
        "dtype": options.dtype,
        "engine": options.engine,
        "epochs": options.epochs,
        "runs": [
            {
                "ranks": run.ranks,
                "synchronised": run.synchronised,
                "max_abs_diff": float(differences[run.key].max()),
                **run.records(),
            }
            for run in runs
        ],
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    written = ["results.json"]
    if runs[0].ranks > 1:
        _plot(options, runs, differences, options.out / "losses.png")
        written.append("losses.png")
    else:
        (options.out / "losses.png").unlink(missing_ok=True)  # an earlier run's
    print(f"\nwritten to {options.out}: {', '.join(written)}")


def _plot(options, runs: list[Run], differences: dict[str, np.ndarray], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    counts = sorted({run.ranks for run in runs})
    for run in sorted(runs, key=lambda run: (run.synchronised, run.ranks)):
        apart = differences[run.key]
        if not apart.any():  # one process, from itself
            continue
        axes.plot(
            np.arange(1, len(apart) + 1),
            np.where(apart > 0, apart, np.nan),  # none, on this scale, is no point
            STYLES[counts.index(run.ranks) % len(STYLES)],
            color=COLORS[run.synchronised],
            label=f"{run.ranks} rank{'s' * (run.ranks > 1)}, {KINDS[run.synchronised]}",
            lw=1,
            marker=".",  # in float64 many steps are exactly alike: points stand alone
            ms=2,
        )
    eps = float(np.finfo(options.dtype).eps)
    axes.axhline(eps, color="0.5", ls=":", lw=1, label=f"eps of {options.dtype}")
    axes.set(yscale="log", xlabel="step", ylabel="difference of the loss from one process")
    axes.set_title(f"{options.network.upper()}: BatchNorm synchronised over the ranks, and not")
    figure.legend(frameon=False, loc="outside right upper")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
