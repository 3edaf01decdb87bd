"""From measured steps and exchanges to the model's numbers, and its error."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.ranks import model, shards
from benchmarks.ranks.model import GATHER, Line, Links, Work

SYNC = "npbn, synchronised"
PLAIN = "npbn, plain BatchNorm"
DDP = "torch DDP (gloo), plain BatchNorm"
SHARDS = "npbn, shards alone, no exchange"
ALONE = "npbn, one process"
TORCH = "torch, one process"
OBSERVED = "npbn, synchronised, observed"

# Assumed, not measured: a message's way through cards and switch, and 10 Gbit/s.
ETHERNET = Links(Line(20e-6, 1 / 1.25e9), Line(20e-6, 1 / 1.25e9), overlap=1.0)

Results = Mapping[str, Any]


class Error(NamedTuple):
    """A measured step and the model's; `relative` is the model's in the measured one, minus 1."""

    sweep: str
    size: int
    ranks: int
    measured: float
    modelled: float

    @property
    def relative(self) -> float:
        """Return the relative error."""
        return self.modelled / self.measured - 1


def median(contest: Results, name: str) -> float:
    """Return the median seconds of a step."""
    return float(np.median(contest["seconds"][name]))


def own_sizes() -> dict[str, list[int]]:
    """Return the bytes of every exchange of a step of up to GATHER ranks, by kind."""
    channels = shards.CHANNELS
    return {
        "gather": [8 * 4, *(8 * (2 + 2 * c) for c in channels)],
        "sum": [*(8 * 2 * c for c in channels), *shards.bucket_bytes()],
    }


def links(results: Results) -> Links | None:
    """Return what two ranks measured; None if they did not."""
    lines = []
    for kind in ("gather", "sum"):
        these = [e for e in results["exchanges"] if (e["kind"], e["ranks"]) == (kind, 2)]
        if not these:
            return None
        lines.append(model.fit([e["bytes"] for e in these], [e["seconds"] for e in these]))
    return Links(*lines, overlap=0.0)


def work(results: Results) -> Work | None:
    """Return what a rank computes; None if it was not measured."""

    def points(name: str) -> list[tuple[int, float]]:
        timed = [c for c in results["computing"] if c["seconds"].get(name)]
        return [(c["size"], median(c, name)) for c in timed]

    names = ALONE, "one of 2", f"one of {GATHER}", f"one of {GATHER + 1}"
    alone, shared, gathered, summed = (points(name) for name in names)
    observed = [c for c in results["steps"] if c["ranks"] == 2 and OBSERVED in c["spent"]]
    if not (alone and shared and gathered and summed and observed):
        return None

    def more(other: list[tuple[int, float]]) -> float:
        pairs = zip(other, shared, strict=True)
        return float(np.median([seconds - base for (_, seconds), (_, base) in pairs]))

    rest = [(c["batch"] / 2, np.median(c["spent"][OBSERVED]["rest"])) for c in observed]
    return Work(
        alone=model.fit(*zip(*alone, strict=True)),
        shared=model.fit(*zip(*shared, strict=True)),
        merge=max(0.0, more(gathered) / (GATHER - 2)),
        sums=more(summed),
        rest=model.fit(*zip(*rest, strict=True)),
        channels=shards.CHANNELS,
        buckets=shards.bucket_bytes(),
    )


def errors(results: Results, work: Work, links: Links) -> list[Error]:
    """Return measured and modelled steps, where each rank had a CPU."""
    found = []
    for contest in results["steps"]:
        if contest["ranks"] <= results["cpus"] and contest["seconds"].get(SYNC):
            samples = contest["batch"] / contest["ranks"]
            modelled = model.step(work, links, contest["ranks"], samples)
            about = (contest[key] for key in ("sweep", "size", "ranks"))
            found.append(Error(*about, median(contest, SYNC), modelled))
    return found
