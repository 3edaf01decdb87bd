"""The tables of time per step against ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.ranks import fit, forecast, model
from benchmarks.ranks.fit import (
    ALONE,
    DDP,
    OBSERVED,
    PLAIN,
    SHARDS,
    SYNC,
    TORCH,
    Results,
    median,
)

AIM_THROUGHPUT = 1.7  # of two ranks in one, each on a CPU, at AIM_BATCH
AIM_SHARE = 0.05  # of the step, for synchronisation
AIM_BATCH, AIM_RANKS = 1024, 2
PARTS = ("BatchNorm", "loss", "gradients")
LIKE_SHARDS = {SYNC: ALONE, PLAIN: ALONE, SHARDS: ALONE, DDP: TORCH}  # throughput in whose


# -- numbers ------------------------------------------------------------------------------------


def throughput(contest: Results, name: str) -> np.ndarray | None:
    """Return the quartiles of the samples per second in those of one process, in each round."""
    quartiles = report.ratio(contest, name, LIKE_SHARDS[name])
    if quartiles is None:
        return None
    return quartiles * contest["batch"] / contest["batches"][LIKE_SHARDS[name]]


def inside(contest: Results) -> dict[str, float] | None:
    """Return the median seconds inside exchanges, by part; None if it was not observed."""
    spent = contest["spent"].get(OBSERVED)
    if not spent:
        return None
    return {part: float(np.median(spent[part])) for part in PARTS}


def at_once(results: Results, ranks: int) -> dict[str, float] | None:
    """Return the measured seconds of a step's exchanges for which all ranks come together."""
    seconds = {
        (e["kind"], e["bytes"]): e["seconds"] for e in results["exchanges"] if e["ranks"] == ranks
    }
    if not seconds:
        return None
    sizes = fit.own_sizes()
    loss, *forward = (seconds["gather", size] for size in sizes["gather"])
    sums = [seconds["sum", size] for size in sizes["sum"]]
    backward, gradients = sums[: len(forward)], sums[len(forward) :]
    return {"BatchNorm": sum(forward + backward), "loss": loss, "gradients": sum(gradients)}


def of(results: Results, sweep: str, size: int, ranks: int) -> Results | None:
    """Return a contest; None if there was none."""
    keys = ("sweep", "size", "ranks")
    found = (c for c in results["steps"] if tuple(c[k] for k in keys) == (sweep, size, ranks))
    return next(found, None)


def shares(results: Results, contest: Results) -> list[tuple[str, float | None]]:
    """Return three measures of synchronisation's share of the step, from wide to narrow."""
    spent, cost = inside(contest), at_once(results, contest["ranks"])
    step = median(contest, OBSERVED) if spent else np.nan
    plain = report.ratio(contest, PLAIN, SYNC)
    return [
        ("inside all exchanges, waiting for the slower rank included", total(spent, step)),
        ("the same exchanges when all ranks come at once", total(cost, step)),
        ("inside the exchanges of BatchNorm, waiting included", total(spent, step, "BatchNorm")),
        ("exchanges of BatchNorm when all come at once", total(cost, step, "BatchNorm")),
        ("step longer than with plain BatchNorm", None if plain is None else plain[1] - 1),
    ]


def total(parts: dict[str, float] | None, step: float, *names: str) -> float | None:
    """Return the share of some parts, or all, in a step."""
    return None if not parts else sum(parts[name] for name in names or PARTS) / step


# -- text ---------------------------------------------------------------------------------------


def explanation(results: Results) -> str:
    """Return how the tables are to be read."""
    libraries = "; ".join(about for about in results["about"].values() if about)
    return (
        "The reference network (784-256-256-10), SGD, float32: a step of training on P ranks, one "
        f"thread each, rank r on CPU r modulo {results['cpus']}. {libraries}. A step's time is "
        "that of the slowest rank, the mean over a turn of some steps between two barriers; "
        "tables show the median over the rounds, with the minimum in brackets. Contenders take "
        "turns within a round, and ratios are taken within it: the median, with quartiles in "
        "brackets. Before it is timed each has taken three steps, and loss, parameters and "
        "running statistics have been compared with float64: of the whole batch in one process "
        f"for `{SYNC}`, of each rank's own shard in BatchNorm for the plain ones. "
        "DistributedDataParallel exchanges no loss; npbn does, and looks whether all values are "
        f"finite. `{SHARDS}` trains a network of its own on every rank, all at the same time: "
        "what the machine gives when no rank waits for another, and so the most that can be "
        "reached. Where there are more ranks than CPUs (\\*) they take each other's time, and "
        "nothing is concluded from it."
    )


def markdown(results: Results) -> str:
    """Return all tables."""
    parts = [aims(results)]
    for sweep, size in report.distinct(results["steps"], "sweep", "size"):
        parts.append(steps(results, sweep, size))
    parts += [breakdown(results), exchanges(results), forecast.forecast(results)]
    return "\n".join(part for part in parts if part)


def rank_label(results: Results, ranks: int) -> str:
    """Write a number of ranks, with a star for more than there are CPUs."""
    return f"{ranks} \\*" if ranks > results["cpus"] else str(ranks)


def aims(results: Results) -> str:
    """Return the table of what was to be reached."""
    contest = of(results, "batch", AIM_BATCH, AIM_RANKS)
    if contest is None or results["cpus"] < AIM_RANKS:
        return "## Aims\n\nNot measured: they are of two ranks on two CPUs.\n"

    def verdict(reached: bool | None) -> str:
        return "not measured" if reached is None else "reached" if reached else "**missed**"

    lines = []
    for name in (SYNC, SHARDS):
        found = throughput(contest, name)
        measured = None if found is None else found[1]
        aim, reached = f"≥ {AIM_THROUGHPUT}x", None
        if measured is not None:
            reached = measured >= AIM_THROUGHPUT
        last = [aim, verdict(reached)] if name == SYNC else ["none: the most there is", "-"]
        value = "-" if measured is None else f"{measured:.2f}x"
        lines.append([f"throughput in one rank's, {name}", value, *last])
    for what, share in shares(results, contest):
        reached = None if share is None else share <= AIM_SHARE
        lines.append([what, report.percent(share), f"≤ {AIM_SHARE:.0%}", verdict(reached)])
    head = [f"{AIM_RANKS} ranks, batch {AIM_BATCH} over both", "measured", "aim", "verdict"]
    note = (
        "Shares are of the step of the synchronised network. Inside exchanges is the mean over "
        "the ranks of the time in the communicator's calls: the rank that comes first waits "
        "there for the other."
    )
    return f"## Aims\n\n{report.table(head, lines)}\n{note}\n"


def steps(results: Results, sweep: str, size: int) -> str:
    """Return times, throughput and the ratio to torch at one size of a sweep."""
    contests = [c for c in results["steps"] if (c["sweep"], c["size"]) == (sweep, size)]
    names = (SYNC, PLAIN, DDP, SHARDS, ALONE, TORCH)
    times = [
        [rank_label(results, c["ranks"]), *(report.time_cell(c, name) for name in names)]
        for c in contests
    ]
    relative = []
    for c in contests:
        found = (throughput(c, name) for name in LIKE_SHARDS)
        cells = ["-" if q is None else f"{q[1]:.2f} [{q[0]:.2f} to {q[2]:.2f}]" for q in found]
        torch = [report.ratio_cell(c, name, DDP) for name in (SYNC, PLAIN)]
        relative.append([rank_label(results, c["ranks"]), *cells, *torch])
    one = "that batch" if sweep == "batch" else "one rank's batch"
    versus = [f"DDP's time in that of {name}" for name in (SYNC, PLAIN)]
    return (
        f"## Fixed {sweep}: {size}\n\n"
        + report.table(["ranks", *names], times)
        + f"\nSamples per second in those of the same library in one process on {one}:\n\n"
        + report.table(["ranks", *LIKE_SHARDS, *versus], relative)
    )


def breakdown(results: Results) -> str:
    """Return where the time of the synchronised step goes."""
    lines = []
    for c in results["steps"]:
        spent = inside(c)
        if spent is None or not 1 < c["ranks"] <= results["cpus"]:
            continue
        step, cost = median(c, OBSERVED), at_once(results, c["ranks"])
        all_inside, least = sum(spent.values()), sum(cost.values()) if cost else np.nan
        others = step - all_inside - (median(c, SHARDS) if SHARDS in c["seconds"] else np.nan)
        numbers = [step, *spent.values(), all_inside, least, all_inside - least, others]
        about = [f"{c['sweep']} {c['size']}", str(c["ranks"])]
        lines.append(
            [
                *about,
                *(report.signed(number) for number in numbers),
                report.percent(all_inside / step),
            ]
        )
    if not lines:
        return ""
    head = ["", "ranks", "step", *(f"in {part}" for part in PARTS), "in all", "of it all at once"]
    head += ["of it waiting", "more work than shards alone", "in all / step"]
    return (
        "## Where the synchronised step goes\n\n"
        "Seconds inside exchanges, the mean over the ranks, in a turn of its own with a clock "
        "around the communicator; what the same exchanges take when all ranks come at once, and "
        "the difference: waiting for a rank that computes longer. The last but one is what "
        f"remains beside the step of `{SHARDS}`: packing, merging, checking, and computing that "
        "is slowed down.\n\n" + report.table(head, lines)
    )


def exchanges(results: Results) -> str:
    """Return latency, bandwidth and the exchanges measured."""
    parts = []
    for kind, ranks in report.distinct(results["exchanges"], "kind", "ranks"):
        these = [e for e in results["exchanges"] if (e["kind"], e["ranks"]) == (kind, ranks)]
        sizes, seconds = [e["bytes"] for e in these], [e["seconds"] for e in these]
        line = model.fit(sizes, seconds)
        lines = [
            [
                f"{e['bytes']:,}",
                f"{report.duration(e['seconds'])} ({report.duration(e['least'])})",
                report.duration(line.at(e["bytes"])),
                report.percent(line.at(e["bytes"]) / e["seconds"] - 1, "+"),
            ]
            for e in these
        ]
        parts.append(
            f"\n{kind}, {ranks} ranks: latency {report.duration(line.fixed)}, bandwidth "
            f"{report.bandwidth(line.slope)}.\n\n"
            + report.table([f"bytes, {kind}", "time", "fit", "its error"], lines)
        )
    if not parts:
        return "## Exchanges\n\nNot measured: there are not two CPUs.\n"
    return (
        "## Exchanges\n\nnpbn's communicator alone, each after a barrier, until the last rank has "
        "the result: the median, with the minimum in brackets. The line `latency + bytes / "
        "bandwidth` has the least squares of relative errors; bytes are those of one rank.\n"
        + "".join(parts)
    )


def progress(contest: dict[str, Any], names: Sequence[str] = (SYNC, PLAIN, DDP, SHARDS)) -> None:
    """Print a line on a contest that has ended."""
    timed = [name for name in names if contest["seconds"].get(name)]
    parts = [f"{name} {report.duration(median(contest, name))}" for name in timed]
    ranks = f"{contest['ranks']} rank{'s' if contest['ranks'] > 1 else ''}"
    what = f"{contest['sweep']} {contest['size']}, {ranks}"
    print(f"{what}: {'; '.join(parts) or 'nothing was timed'}", flush=True)
