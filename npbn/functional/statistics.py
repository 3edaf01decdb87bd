"""The statistics of a batch, per channel, and how those of several batches are merged."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npbn.engines import fused, moments
from npbn.functional.batches import as_batch


class BatchStatistics(NamedTuple):
    """Count, mean and sum of squared deviations of each channel.

    They are sums of squared *deviations*: E[x²] − E[x]² loses all digits where the mean is large
    beside the standard deviation.

    Parameters
    ----------
    count : int
        Values per channel.
    moments : ndarray, shape (3, C), float64
        Its rows are `mean`, rounded, and 0 for an empty batch; `rest`, the rounding error, so that
        the mean is mean + rest; and `m2`, Σ (x − mean − rest)².

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

    count: int  # type: ignore[assignment]  # in place of tuple.count
    moments: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of each channel, (C,)."""
        mean: np.ndarray = self.moments[0]
        return mean

    @property
    def rest(self) -> np.ndarray:
        """Rounding error of `mean`, (C,): what to add to it."""
        rest: np.ndarray = self.moments[1]
        return rest

    @property
    def m2(self) -> np.ndarray:
        """Σ (x − mean)² of each channel, (C,)."""
        m2: np.ndarray = self.moments[2]
        return m2

    @property
    def var(self) -> np.ndarray:
        """Biased variance m2 / count, (C,): it normalises."""
        return self.m2 / max(self.count, 1)

    @property
    def unbiased_var(self) -> np.ndarray:
        """Unbiased variance m2 / (count − 1), (C,): ``running_var`` averages it."""
        return self.m2 / max(self.count - 1, 1)

    def merge(self, other: "BatchStatistics") -> "BatchStatistics":
        """Return the statistics of both batches taken together; see :func:`merge_all`.

        Parameters
        ----------
        other : BatchStatistics
            Those of another batch, with as many channels.

        Returns
        -------
        BatchStatistics
            Those of all values.
        """
        return merge_all([self, other])


def measure(x: np.ndarray) -> BatchStatistics:
    """Return the statistics of a batch.

    Parameters
    ----------
    x : ndarray, shape (N, C, ...), of a float dtype
        The input.

    Returns
    -------
    BatchStatistics
        Count, mean and Σ (x − mean)² of each channel.
    """
    out = np.empty((3, x.shape[1]))
    return BatchStatistics(_moments(as_batch(x), out), out)


@fused
def _moments(x: np.ndarray, out: np.ndarray) -> int:
    return moments(x, out)


@np.errstate(all="ignore")
def merge_all(parts: Sequence[BatchStatistics]) -> BatchStatistics:
    """Return the statistics of several batches taken together.

    Parameters
    ----------
    parts : sequence of BatchStatistics
        At least one.

    Returns
    -------
    BatchStatistics
        Count, mean and Σ (x − mean)² of each channel.

    Notes
    -----
    With n_i values in part i and d_i = mean_i − mean, Σ over the parts::

        mean = Σ n_i · mean_i / n
        m2   = Σ (m2_i + n_i · d_i²)

    The d_i are differences from the mean of the largest part, so that a part's rest is not lost.

    References
    ----------
    T. Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979, equations 2.1: this is their sum over any number of parts.
    """
    parts = [part for part in parts if part.count] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    counts = np.array([part.count for part in parts], np.float64)
    means, rests, m2s = np.stack([part.moments for part in parts], axis=1)
    count, largest = int(counts.sum()), means[counts.argmax()]
    differences = (means - largest) + rests
    offset = counts @ differences / max(count, 1)
    differences -= offset
    m2 = m2s.sum(axis=0) + counts @ np.square(differences)
    return BatchStatistics(count, np.stack([*two_parts(largest, offset), m2]))


def two_parts(shift: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift + offset as mean, rounded, and rest, its rounding error."""
    mean = shift + offset
    return mean, np.where(np.isfinite(mean), (shift - mean) + offset, 0.0)
