"""The tables of the model: what it is made of, its error, and what it predicts."""

import numpy as np

from benchmarks import report
from benchmarks.ranks import fit, model
from benchmarks.ranks.fit import ETHERNET, Results
from benchmarks.ranks.model import GATHER, Links, Work

PREDICTED = (1, 2, 4, 8, 16, 17, 32, 64, 128, 256, 512, 1000)
# Fixed, of all ranks or of one: its size, and the model's name of it.
FUTURES = (("batch per rank", 256), ("batch", 65_536))
TABLED = (*FUTURES, ("batch", 1024))


def forecast(results: Results) -> str:
    """Return the model's numbers, its errors and its predictions."""
    work, links = fit.work(results), fit.links(results)
    if work is None or links is None:
        return "## Model\n\nNot fitted: it takes steps and exchanges of two ranks on two CPUs.\n"
    overlapped = links._replace(overlap=1.0)
    pairs = zip(
        fit.errors(results, work, links),
        fit.errors(results, work, overlapped),
        strict=True,
    )
    lines, plain, best = [], [], []
    for error, other in pairs:
        plain.append(error.relative)
        best.append(other.relative)
        about = [f"{error.sweep} {error.size}", str(error.ranks)]
        times = [report.duration(error.measured), report.duration(error.modelled)]
        lines.append(
            [*about, *times, report.percent(plain[-1], "+"), report.percent(best[-1], "+")]
        )
    if not lines:
        return "## Model\n\nNot compared: no synchronised step was timed, each rank on a CPU.\n"
    head = ["", "ranks", "measured", "model", "error", "error, if transfers overlapped"]
    return (
        "## Model\n\n"
        "step(P, n) = computing(P, n) + exchanges of BatchNorm + gather of the loss + sums of "
        "gradients that outlast backward, for n samples a rank; equations and source are in "
        "`benchmarks/ranks/model.py`. In shared memory a transfer is the processor's own work, so "
        "that nothing overlaps; the last column of the errors assumes that all that may overlap "
        "does.\n\n"
        + numbers(work)
        + "\n"
        + report.table(head, lines)
        + f"\nThe largest error is {report.percent(max(map(abs, plain)))}, the mean of their sizes "
        f"{report.percent(float(np.mean(np.abs(plain))))}; if transfers overlapped, "
        f"{report.percent(max(map(abs, best)))} and {report.percent(float(np.mean(np.abs(best))))}"
        ". None of the steps in this table is one that the model was fitted to.\n\n"
        + predictions(work, links)
    )


def numbers(work: Work) -> str:
    """Return what was fitted to steps of one process, and of two that exchange nothing."""

    def line(name: str, found: model.Line) -> str:
        return f"- {name}: {report.duration(found.fixed)} + {report.duration(found.slope)} · n\n"

    buckets = ", ".join(f"{size:,}" for size in work.buckets)
    return (
        line("computing of one rank, alone", work.alone)
        + line("computing of one of many, every CPU busy", work.shared)
        + f"- for each rank beyond two, up to {GATHER}: {report.duration(work.merge)}; beyond "
        f"{GATHER}: {report.signed(work.sums)} in all\n"
        + line("backward after the first bucket of gradients was sent", work.rest)
        + f"- buckets of gradients: {buckets} bytes\n"
    )


def samples(sweep: str, size: int, ranks: int) -> float:
    """Return the samples of one rank."""
    return size / ranks if sweep == "batch" else size


def predictions(work: Work, links: Links) -> str:
    """Return the table of predicted steps."""
    lines = []
    for ranks in PREDICTED:
        cells = [
            report.duration(model.step(work, which, ranks, samples(sweep, size, ranks)))
            for sweep, size in TABLED
            for which in (links, ETHERNET)
        ]
        lines.append([f"{ranks:,}", *cells])
    head = ["ranks"]
    for sweep, size in TABLED:
        head += [f"{sweep} {size:,}", "the same, 10 GbE assumed"]
    return (
        "### Predictions\n\nBeyond the ranks that were measured these are predictions with one "
        "machine's latency and bandwidth in shared memory, as if it had as many CPUs, and with an "
        f"assumed network instead: {report.duration(ETHERNET.sum.fixed)} and "
        f"{report.bandwidth(ETHERNET.sum.slope)} for every message, and transfers that go on while "
        "the processor computes. Neither knows of ranks that wait for a slower one, nor of links "
        "that many ranks share.\n\n" + report.table(head, lines)
    )
