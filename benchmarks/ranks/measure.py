"""How a training step's time grows with the MPI ranks that share its batch, and a model of it.

The steps of one number of ranks, npbn's and torch's, on many ranks and in one process, are timed
in turn, round by round; so are, on all CPUs, what the model is made of: computing, and exchanges.
All of it is gone through several times, so that a machine that is slow for a minute is so for all.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.harness import allowed_cpus
from benchmarks.ranks import fit, tables
from benchmarks.ranks.contest import Entry, Jobs
from benchmarks.ranks.jobs import Job, mpiexec
from benchmarks.ranks.model import GATHER

Results = dict[str, Any]

MOST = 16  # ranks
# The machine's speed drifts within minutes: in one pass of 25 rounds for each contest, one process
# took 25 % longer in one contest than in another that was to predict it.
PASSES, ROUNDS = 8, 3
STEPS = {
    fit.SYNC: Entry("npbn", "synchronised"),
    fit.PLAIN: Entry("npbn", "plain"),
    fit.DDP: Entry("torch", "plain"),
    fit.SHARDS: Entry("npbn", "no exchange"),
    fit.ALONE: Entry("npbn", "one process", together=False),
    fit.TORCH: Entry("torch", "one process", together=False),
    fit.OBSERVED: Entry("npbn", "observed"),
}
SWEEPS = {"batch": (1024, 256), "batch per rank": (256, 64)}
COMPUTING = (32, 64, 128, 256, 512, 1024)  # samples a rank
EXCHANGES = {
    "gather": (16, 64, 512, 4096, 32 << 10, 256 << 10, 1 << 20, 4 << 20),
    "sum": (8, 64, 512, 4096, 32 << 10, 256 << 10, 1 << 20, 4 << 20),
}


def run(out: Path, quick: bool) -> None:
    """Measure, and write ranks.json, .md and .png into `out`; or say why not."""
    reason = missing()
    if reason:
        print(f"time per step against ranks: {reason}: skipped", flush=True)
        return
    results = measure(quick)
    text = tables.explanation(results)
    report.write(out, "ranks", [results], tables.markdown(results), draw, text)


def missing() -> str:
    """Return what is not there, if so."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    return "" if mpiexec() else "there is no mpiexec"


def counts(cpus: int) -> list[int]:
    """Return the numbers of ranks: powers of two, for shards of one size, up to 4 or the CPUs."""
    return [1 << i for i in range(MOST.bit_length()) if 1 << i <= max(4, min(cpus, MOST))]


def measure(
    quick: bool,
    sweeps: dict[str, tuple[int, ...]] = SWEEPS,
    ranks: list[int] | None = None,
) -> dict[str, Any]:
    """Return all results.

    Returns
    -------
    dict
        ``cpus``; ``about`` (contender to its library); ``steps``, ``computing`` (contests);
        ``exchanges`` (kind, ranks, bytes and seconds).
    """
    cpus, passes = len(allowed_cpus()), 1 if quick else PASSES
    ranks = ranks or counts(cpus)
    full = max(count for count in ranks if count <= cpus)
    results: dict[str, Any] = {"cpus": cpus, "about": {}}
    results |= {"steps": [], "computing": [], "exchanges": []}
    for count in ranks:
        with Jobs(count) as jobs:
            results["about"] |= {job.contender: job.about for job in jobs.jobs.values()}
            found = [once(jobs, quick, sweeps, full) for _ in range(passes)]
        # Not strict: exchanges that failed in one pass are left out.
        steps, alone, exchanged = (zip(*parts, strict=False) for parts in zip(*found, strict=True))
        for parts in steps:
            results["steps"].append(together(parts))
            tables.progress(results["steps"][-1])
        results["computing"] += map(together, alone)
        for parts in exchanged:
            seconds = [s for part in parts for s in part.pop("seconds")]
            about = {"seconds": float(np.median(seconds)), "least": min(seconds)}
            results["exchanges"].append({**parts[0], **about})
    return results


def once(
    jobs: Jobs, quick: bool, sweeps: dict[str, tuple[int, ...]], full: int
) -> tuple[list[Results], list[Results], list[Results]]:
    """Return the contests of one pass: steps, computing alone; and exchanges."""
    count, steps, alone = jobs.count, [], []
    for sweep, sizes in sweeps.items():
        for size in sizes[:1] if quick else sizes:
            whole = size if sweep == "batch" else size * count
            about = {"sweep": sweep, "size": size, "batch": whole}
            # One process takes the whole batch where that is fixed, else one rank's.
            batches = {name: whole if e.together else size for name, e in STEPS.items()}
            steps.append(jobs.contest(about, STEPS, batches, ROUNDS))
    entries = computing(count, full)
    for size in (COMPUTING[1::2] if quick else COMPUTING) if entries else ():
        batches = dict.fromkeys(entries, size * count)
        about = {"sweep": "computing", "size": size, "batch": size * count}
        alone.append(jobs.contest(about, entries, batches, ROUNDS))
    both = 1 < count <= full and not jobs.jobs["npbn"].refused
    return steps, alone, exchanges(jobs.jobs["npbn"], 15 if quick else 50) if both else []


def together(parts: Sequence[Results]) -> Results:
    """Return the same contest of several passes as one; what was refused once counts for all."""
    refused = {name: text for part in parts for name, text in part["refused"].items()}
    names = [name for name in parts[0]["seconds"] if name not in refused]
    seconds = {name: [s for part in parts for s in part["seconds"][name]] for name in names}
    spent = {
        name: {
            kind: [s for part in parts for s in part["spent"][name][kind]]
            for kind in parts[0]["spent"][name]
        }
        for name in names
        if name in parts[0]["spent"]
    }
    rounds = sum(part["rounds"] for part in parts)
    changed = {"seconds": seconds, "spent": spent, "refused": refused, "rounds": rounds}
    return {**parts[0], **changed}


def computing(count: int, full: int) -> dict[str, Entry]:
    """Return the steps that exchange nothing: one process alone, or as many as there are CPUs."""
    entries: dict[str, Entry] = {}
    if count == 1:
        entries[fit.ALONE] = Entry("npbn", "one process", together=False)
    if count == full:
        sizes = (2, GATHER, GATHER + 1)
        entries |= {f"one of {size}": Entry("npbn", f"one of {size}") for size in sizes}
    return entries


def exchanges(job: Job, times: int) -> list[Results]:
    """Return the times of npbn's exchanges, of the sizes of a step among them.

    Seconds are until the last rank has the result, one for each repetition.
    """
    found = []
    own = fit.own_sizes()
    for kind, sizes in EXCHANGES.items():
        for size in sorted({*sizes, *own[kind]}):
            answers = job.ask(exchange=kind, bytes=size, times=times)
            if job.refused:
                print(f"exchanges: {job.refused['refused']}", flush=True)
                return []
            last = np.max([answer["seconds"] for answer in answers], axis=0).tolist()
            found.append({"kind": kind, "ranks": job.ranks, "bytes": size, "seconds": last})
    return found


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw steps, exchanges and the model."""
    from benchmarks.ranks import figure

    figure.draw(results[0], path)
