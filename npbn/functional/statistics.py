"""The statistics of a batch, per channel: measured, and merged."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npbn.functional.passes import channel_sums, per_channel


class BatchStatistics(NamedTuple):
    """Count, mean and sum of squared deviations of every channel.

    Sums of squared *deviations*, never of squares: E[x²] − E[x]² cancels all digits
    once the mean is large against the standard deviation.

    Attributes
    ----------
    count : int
        Values per channel.
    mean : ndarray, shape (C,), float64
        Mean of each channel; 0 for an empty batch.
    m2 : ndarray, shape (C,), float64
        Σ (x − mean)² of each channel.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 10.0], [7.0, 10.0]])
    >>> whole = measure(x)
    >>> whole.mean, whole.var
    (array([ 4., 10.]), array([5., 0.]))
    >>> measure(x[:1]).merge(measure(x[1:])).var
    array([5., 0.])
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @property
    def var(self) -> np.ndarray:
        """Biased variance m2 / count, the one that normalises."""
        return self.m2 / max(self.count, 1)

    @property
    def unbiased_var(self) -> np.ndarray:
        """Unbiased variance m2 / (count − 1), the one that ``running_var`` stores."""
        return self.m2 / max(self.count - 1, 1)

    @np.errstate(all="ignore")
    def merge(self, other: "BatchStatistics") -> "BatchStatistics":
        """Return the statistics of both batches taken together.

        Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
        computing sample variances" (1979), equations 2.1.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        return BatchStatistics(count, mean, m2)


@np.errstate(all="ignore")
def merge_all(parts: Sequence[BatchStatistics]) -> BatchStatistics:
    """Return the statistics of several batches taken together, at least one.

    What :meth:`BatchStatistics.merge` gives one after another, in a number of operations that
    does not grow with the number of parts.
    """
    counts = np.array([part.count for part in parts], np.float64)
    return merge_rows(counts, np.stack([p.mean for p in parts]), np.stack([p.m2 for p in parts]))


def merge_rows(counts: np.ndarray, means: np.ndarray, m2s: np.ndarray) -> BatchStatistics:
    """Return what :func:`merge_all` does, of counts (P,), means and m2s (P, C), in float64."""
    count, first = int(counts.sum()), means[counts.argmax()]
    # Near the mean, and if all means are equal exactly that.
    centre = first + counts @ (means - first) / max(count, 1)
    differences = means - centre
    sums = counts @ differences
    return about(count, centre, sums, m2s.sum(axis=0) + counts @ np.square(differences))


def about(count: int, c: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> BatchStatistics:
    """Return the statistics of `count` values from Σ (x − c) and Σ (x − c)², c near the mean."""
    missed = sums / max(count, 1)
    return BatchStatistics(count, c + missed, np.maximum(squares - sums * missed, 0))


@np.errstate(all="ignore")
def measure(x: np.ndarray) -> BatchStatistics:
    """Return the statistics of a batch of shape ``(N, C, ...)``, computed in float64."""
    return centre(x)[1]


def centre(x: np.ndarray) -> tuple[np.ndarray, BatchStatistics]:
    """Return x − mean in float64 and the statistics of the batch: slow and exact.

    The mean is taken twice: the first is rounded, and what it misses shows as the mean of
    the deviations, which are small numbers and have digits to spare.
    """
    count = x.size // x.shape[1] if x.size else 0
    if count == 0:
        nothing = np.zeros(x.shape[1])
        return x.astype(np.float64), BatchStatistics(0, nothing, nothing.copy())
    wide = x.astype(np.float64)
    axes = (0, *range(2, x.ndim))
    # Rounding may carry the mean of equal values past them; between the extremes it is exact.
    first_mean = np.clip(channel_sums(wide) / count, wide.min(axes), wide.max(axes))
    shift = per_channel(first_mean, x.ndim)
    deviation = wide - shift
    if x.dtype == np.float64:
        lost, sums = _lost_in_difference(wide, shift, deviation), _exact_sums
    else:  # float64 has the digits
        lost, sums = np.zeros_like(wide), channel_sums
    missed = (sums(deviation) + sums(lost)) / count
    m2 = sums(np.square(deviation)) + 2 * sums(deviation * lost) - count * np.square(missed)
    # An infinite value leaves no deviation to average: the mean is then the first one.
    mean = first_mean + np.where(np.isfinite(missed), missed, 0)
    deviation -= per_channel(missed, x.ndim)
    deviation += lost
    return deviation, BatchStatistics(count, mean, np.maximum(m2, 0))


def _lost_in_difference(a: np.ndarray, b: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Return a − b − difference, the rounding error of a − b, exactly (Knuth's TwoSum)."""
    virtual = difference - a
    return (a - (difference - virtual)) - (b + virtual)


def _exact_sums(x: np.ndarray) -> np.ndarray:
    """Sum over all axes but 1, each sum rounded once, where none of it is out of range."""
    columns = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    magnitudes = np.abs(columns).max(axis=1)
    return np.array(
        [
            math.fsum(column) if magnitude < 1e290 else column.sum()
            for column, magnitude in zip(columns, magnitudes, strict=True)
        ]
    )
