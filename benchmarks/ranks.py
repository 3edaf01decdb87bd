"""How a training step's time grows with the MPI ranks that share its batch, and a model of it.

The steps of one number of ranks, npbn's and torch's, on many ranks and in one process, are timed
in turn, round by round; so are, on all CPUs, what the model is made of: computing, and exchanges.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rank_fit, rank_report, report
from benchmarks.harness import allowed_cpus
from benchmarks.rank_contest import Entry, Jobs
from benchmarks.rank_jobs import Job, mpiexec
from benchmarks.rank_model import GATHER

MOST = 16  # ranks
STEPS = {
    rank_fit.SYNC: Entry("npbn", "synchronised"),
    rank_fit.PLAIN: Entry("npbn", "plain"),
    rank_fit.DDP: Entry("torch", "plain"),
    rank_fit.SHARDS: Entry("npbn", "no exchange"),
    rank_fit.ALONE: Entry("npbn", "one process", together=False),
    rank_fit.TORCH: Entry("torch", "one process", together=False),
    rank_fit.OBSERVED: Entry("npbn", "observed"),
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
    text = rank_report.explanation(results)
    report.write(out, "ranks", [results], rank_report.markdown(results), draw, text)


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
    cpus, rounds = len(allowed_cpus()), 3 if quick else 25
    ranks = ranks or counts(cpus)
    full = max(count for count in ranks if count <= cpus)
    results: dict[str, Any] = {"cpus": cpus, "about": {}}
    results |= {"steps": [], "computing": [], "exchanges": []}
    for count in ranks:
        with Jobs(count) as jobs:
            results["about"] |= {job.contender: job.about for job in jobs.jobs.values()}
            for sweep, sizes in sweeps.items():
                for size in sizes[:1] if quick else sizes:
                    whole = size if sweep == "batch" else size * count
                    about = {"sweep": sweep, "size": size, "batch": whole}
                    # One process takes the whole batch where that is fixed, else one rank's.
                    batches = {name: whole if e.together else size for name, e in STEPS.items()}
                    results["steps"].append(jobs.contest(about, STEPS, batches, rounds))
                    rank_report.progress(results["steps"][-1])
            for size in COMPUTING[1::2] if quick else COMPUTING:
                entries = computing(count, full)
                batches = dict.fromkeys(entries, size * count)
                about = {"sweep": "computing", "size": size, "batch": size * count}
                if entries:
                    results["computing"].append(jobs.contest(about, entries, batches, rounds))
            if 1 < count <= cpus and not jobs.jobs["npbn"].refused:
                results["exchanges"] += exchanges(jobs.jobs["npbn"], 15 if quick else 200)
    return results


def computing(count: int, full: int) -> dict[str, Entry]:
    """Return the steps that exchange nothing: one process alone, or as many as there are CPUs."""
    entries: dict[str, Entry] = {}
    if count == 1:
        entries[rank_fit.ALONE] = Entry("npbn", "one process", together=False)
    if count == full:
        sizes = (2, GATHER, GATHER + 1)
        entries |= {f"one of {size}": Entry("npbn", f"one of {size}") for size in sizes}
    return entries


def exchanges(job: Job, times: int) -> list[dict[str, Any]]:
    """Return the times of npbn's exchanges, of the sizes of a step among them.

    Seconds are until the last rank has the result: the median over the repetitions.
    """
    found = []
    own = rank_fit.own_sizes()
    for kind, sizes in EXCHANGES.items():
        for size in sorted({*sizes, *own[kind]}):
            answers = job.ask(exchange=kind, bytes=size, times=times)
            if job.refused:
                print(f"exchanges: {job.refused['refused']}", flush=True)
                return []
            last = np.max([answer["seconds"] for answer in answers], axis=0)
            about = {"kind": kind, "ranks": job.ranks, "bytes": size}
            found.append({**about, "seconds": float(np.median(last)), "least": float(last.min())})
    return found


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw steps, exchanges and the model."""
    from benchmarks import rank_pictures

    rank_pictures.draw(results[0], path)
