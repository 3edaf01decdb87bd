"""A model of a training step on P ranks: what each computes, and what their exchanges take.

A message of `m` bytes takes ``latency + m · per_byte`` seconds between two ranks. From there on
by R. Thakur, R. Rabenseifner and W. Gropp 2005, "Optimization of Collective Communication
Operations in MPICH", Int. J. High Performance Computing Applications 19 (1), sections 3 and 4,
whose α is `latency` and whose β is `per_byte`; the time to add a byte, their γ, is part of a sum's
`per_byte`, since two ranks cannot tell one from the other.

Not in the model: ranks that wait for a slower one, and links that many ranks share.
"""

from collections.abc import Sequence
from math import ceil, log2
from typing import NamedTuple

import numpy as np

from npbn.distributed.sync_batch_norm import GATHER


class Line(NamedTuple):
    """``fixed + slope · x``: seconds of x bytes, or of x samples."""

    fixed: float
    slope: float

    def at(self, x: float) -> float:
        """Return the value at x."""
        return self.fixed + self.slope * x


class Links(NamedTuple):
    """How ranks are connected.

    Attributes
    ----------
    gather, sum : Line
        Seconds of a message of x bytes between two ranks, and of one that is added as well.
    overlap : float
        Share of a transfer that goes on while the processor computes: 0 in shared memory, where
        the processor itself copies; at best 1 where a network card does.
    """

    gather: Line
    sum: Line
    overlap: float


class Work(NamedTuple):
    """What one rank computes in a step.

    Attributes
    ----------
    alone : Line
        Seconds of a step over the samples of its batch, in one process, which exchanges nothing.
    shared : Line
        The same as one of two ranks, every CPU busy, with all that a rank does for an exchange:
        messages packed and unpacked, statistics merged.
    merge : float
        Seconds that each rank beyond two adds, as long as statistics are gathered.
    sums : float
        Seconds that a step takes more than that of two ranks, where statistics are summed.
    rest : Line
        Seconds of backward left when the first bucket of gradients is sent, over the samples.
    channels : sequence of int
        Of each synchronised BatchNorm layer.
    buckets : sequence of int
        Bytes of each bucket of gradients; all but the last are sent when the first one is, as
        far as the model knows, the last at the end of backward.
    """

    alone: Line
    shared: Line
    merge: float
    sums: float
    rest: Line
    channels: Sequence[int]
    buckets: Sequence[int]


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Return the line through points with the least squares of relative errors.

    Neither of its numbers is negative: a latency or bandwidth below zero is noise.
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    columns = np.stack([1 / y, x / y], axis=1)
    (fixed, slope), *_ = np.linalg.lstsq(columns, np.ones(len(y)), rcond=None)
    if fixed < 0:
        fixed, slope = 0.0, columns[:, 1].sum() / (columns[:, 1] ** 2).sum()
    elif slope < 0:
        fixed, slope = columns[:, 0].sum() / (columns[:, 0] ** 2).sum(), 0.0
    return Line(float(fixed), float(slope))


def gather(link: Line, ranks: int, size: int) -> float:
    """Return the seconds in which every rank gets `size` bytes of each.

    Recursive doubling, and for numbers of ranks that are no power of two Bruck's algorithm::

        ⌈log2 P⌉ · latency + (P − 1) · size · per_byte
    """
    return ceil(log2(ranks)) * link.fixed + (ranks - 1) * size * link.slope


def total(link: Line, ranks: int, size: int) -> float:
    """Return the seconds of a sum of `size` bytes over all ranks.

    The faster of recursive doubling, which is for short messages, and Rabenseifner's algorithm, a
    reduce-scatter and then a gather, for long ones::

        ⌈log2 P⌉ · (latency + size · per_byte)
        2 · ⌈log2 P⌉ · latency + 2 · (P − 1) / P · size · per_byte
    """
    rounds = ceil(log2(ranks))
    short = rounds * link.at(size)
    long = 2 * rounds * link.fixed + 2 * (ranks - 1) / ranks * size * link.slope
    return min(short, long)


def batch_norm(links: Links, ranks: int, channels: int) -> float:
    """Return the seconds of the exchanges of one synchronised BatchNorm layer of C channels.

    Forward one gather of 8 · (2 + 2 C) bytes a rank up to GATHER ranks, two sums of 8 · (1 + C)
    and 8 · 2 C bytes beyond; backward a sum of 8 · 2 C bytes.
    """
    if ranks == 1:
        return 0.0
    if ranks <= GATHER:
        forward = gather(links.gather, ranks, 8 * (2 + 2 * channels))
    else:
        sizes = 8 * (1 + channels), 8 * 2 * channels
        forward = sum(total(links.sum, ranks, size) for size in sizes)
    return forward + total(links.sum, ranks, 8 * 2 * channels)


def loss(links: Links, ranks: int) -> float:
    """Return the seconds of the gather of 8 · 4 bytes a rank: samples, loss, and what it is."""
    return 0.0 if ranks == 1 else gather(links.gather, ranks, 8 * 4)


def gradients(links: Links, ranks: int, buckets: Sequence[int], rest: float) -> float:
    """Return the seconds from the end of backward to the last sum of gradients.

    One sum after the other; all but the last bucket are ready `rest` seconds before backward
    ends, of which the transfers can use the links' `overlap`.
    """
    if ranks == 1:
        return 0.0
    sums = [total(links.sum, ranks, size) for size in buckets]
    early = sum(sums[:-1])
    return max(0.0, early - links.overlap * rest) + sums[-1]


def computing(work: Work, ranks: int, samples: float) -> float:
    """Return the seconds in which a rank computes; `samples` are its share of the batch."""
    if ranks == 1:
        return work.alone.at(samples)
    more = (ranks - 2) * work.merge if ranks <= GATHER else work.sums
    return work.shared.at(samples) + more


def exchanging(work: Work, links: Links, ranks: int, samples: float) -> float:
    """Return the seconds in which a rank waits for exchanges."""
    return (
        sum(batch_norm(links, ranks, channels) for channels in work.channels)
        + loss(links, ranks)
        + gradients(links, ranks, work.buckets, work.rest.at(samples))
    )


def step(work: Work, links: Links, ranks: int, samples: float) -> float:
    """Return the seconds of a step on `ranks` ranks, `samples` on each."""
    return computing(work, ranks, samples) + exchanging(work, links, ranks, samples)
