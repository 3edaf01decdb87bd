"""The statistics of a batch, per channel, and how those of several batches are merged."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npbn.engines import fused, moments


class BatchStatistics(NamedTuple):
    """Count, mean and sum of squared deviations of every channel.

    Sums of squared *deviations*, never of squares: E[x²] − E[x]² cancels all digits once the mean
    is large against the standard deviation.

    Attributes
    ----------
    count : int
        Values per channel.
    mean : ndarray, shape (C,), float64
        Mean of each channel, rounded; 0 for an empty batch.
    rest : ndarray, shape (C,), float64
        What rounding left out: the mean is mean + rest.
    m2 : ndarray, shape (C,), float64
        Σ (x − mean − rest)² of each channel.

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
    rest: np.ndarray
    m2: np.ndarray

    @property
    def var(self) -> np.ndarray:
        """Biased variance m2 / count, the one that normalises."""
        return self.m2 / max(self.count, 1)

    @property
    def unbiased_var(self) -> np.ndarray:
        """Unbiased variance m2 / (count − 1), the one that ``running_var`` stores."""
        return self.m2 / max(self.count - 1, 1)

    def merge(self, other: "BatchStatistics") -> "BatchStatistics":
        """Return the statistics of both batches taken together; see :func:`merge_all`."""
        return merge_all([self, other])


def measure(x: np.ndarray) -> BatchStatistics:
    """Return the statistics of a batch of shape ``(N, C, ...)``."""
    return BatchStatistics(*_moments(as_batch(x)))


@fused
def _moments(x):
    return moments(x)


def as_batch(x: np.ndarray) -> np.ndarray:
    """Return (N, C, ...) as an engine takes it: (N, C, P), C-contiguous, float32 or float64."""
    x = np.ascontiguousarray(x, np.float32 if x.dtype == np.float16 else x.dtype)
    return x[:, :, None] if x.ndim == 2 else x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


@np.errstate(all="ignore")
def merge_all(parts: Sequence[BatchStatistics]) -> BatchStatistics:
    """Return the statistics of several batches taken together, at least one.

    With n_i values in part i and d_i = mean_i − mean, Σ over the parts::

        mean = Σ n_i · mean_i / n
        m2   = Σ (m2_i + n_i · d_i²)

    T. Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979, equations 2.1, of which this is the sum over any number of parts. The
    d_i are taken from the mean of the largest part, so that a part's rest is not lost.
    """
    counts = np.array([part.count for part in parts], np.float64)
    means, rests, m2s = (np.stack(vectors) for vectors in list(zip(*parts, strict=True))[1:])
    count = int(counts.sum())
    largest = means[counts.argmax()]
    differences = (means - largest) + rests
    offset = counts @ differences / max(count, 1)
    differences -= offset
    return BatchStatistics(
        count, *two_parts(largest, offset), m2s.sum(axis=0) + counts @ np.square(differences)
    )


def two_parts(shift: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift + offset as mean and rest, what rounding leaves out of the mean."""
    mean = shift + offset
    return mean, np.where(np.isfinite(mean), (shift - mean) + offset, 0.0)
