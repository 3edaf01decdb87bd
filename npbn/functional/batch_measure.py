"""The mean and variance of a batch, fast: two roads, by size.

Both write the mean as shift + offset, shift a vector in x's dtype that has been, or may be,
subtracted from x without loss where it matters (Sterbenz), and offset in float64.
"""

import math

import numpy as np

from npbn.functional.batch_norm_exact import TINY, split
from npbn.functional.passes import (
    centred_sums,
    per_channel,
    subtract,
    wide_sums,
    zeros,
)
from npbn.functional.statistics import BatchStatistics, measure
from npbn.functional.tuning import SAMPLE, WIDE_BYTES

# Σx² − n · mean² magnifies the rounding of its float64 sums by mean² / var: three
# sums of n lose at most 3 n · 2⁻⁵³ · mean² / var, which is 0.3 eps32 while n · mean² / var <= 10⁸.
CANCELS = 1e8

# mean² / var up to which a batch is not centred, by its sample, and above which what is left of the
# mean leaves the float32 variance in doubt: it magnifies the error of Σ (x − shift)² by 1 + ratio.
NEAR, FAR = 1 / 4, 1 / 3
GOLDEN = (math.sqrt(5) - 1) / 2
WEIGHT = 4  # up to which the mean's error, half an eps or two, may show magnified in the output


def measure_batch(
    x: np.ndarray, weight: np.ndarray | None, centred: np.ndarray
) -> tuple[BatchStatistics, np.ndarray, np.ndarray, np.ndarray]:
    """Measure a float32 or float64 batch, C-contiguous.

    Parameters
    ----------
    x : ndarray, shape (N, C, ...)
    weight : ndarray, shape (C,), or None
    centred : ndarray, shape of x
        Receives x − shift where `shift` is not all 0.

    Returns
    -------
    statistics : BatchStatistics
    shift : ndarray, shape (C,), dtype of x
    offset : ndarray, shape (C,), float64
    doubtful : ndarray, shape (C,), bool
        Channels of which x − shift and `offset` may have lost digits; `statistics` have not.
    """
    if x.dtype == np.float32 and x.nbytes <= WIDE_BYTES:
        statistics, cancelled = measure_wide(x)
        shift, offset = zeros(x.shape[1], x.dtype), statistics.mean
        if cancelled:
            shift, offset = split(shift, offset)
            subtract(x, shift, out=centred)
        return statistics, shift, offset, zeros(x.shape[1], np.bool_)
    return _measure_shifted(x, weight, centred)


def measure_wide(x: np.ndarray) -> tuple[BatchStatistics, bool]:
    """Measure a float32 batch by Σx and Σx² in float64; where those cancel, once more, centred.

    Tell also whether they cancelled anywhere but in a constant channel.
    """
    count = x.size // max(x.shape[1], 1)
    mean, m2, lost = _wide_moments(x.astype(np.float64), count)
    sure = CANCELS * m2 >= count * lost  # False for NaN
    if np.count_nonzero(sure) == len(sure):
        return BatchStatistics(count, mean, m2), False
    doubtful = np.flatnonzero(~sure)
    channels = x.take(doubtful, axis=1)
    first = channels[(slice(1), slice(None), *(slice(1),) * (x.ndim - 2))]
    if (channels == first).all():
        mean[doubtful], m2[doubtful] = first.reshape(-1), 0.0
        return BatchStatistics(count, mean, m2), False
    # The mean as a float32: what is subtracted from one loses nothing.
    shift = np.where(np.isfinite(mean), mean, 0)[doubtful].astype(x.dtype).astype(np.float64)
    deviation = channels - per_channel(shift, x.ndim)
    missed, m2[doubtful], _ = _wide_moments(deviation, count)
    mean[doubtful] = shift + missed
    return BatchStatistics(count, mean, np.maximum(m2, 0)), True


def _wide_moments(wide: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, Σx² − n · mean² and n · mean² of a float64 array, which is overwritten."""
    sums = wide_sums(wide)
    squares = wide_sums(np.square(wide, out=wide))
    mean = sums / max(count, 1)
    sums *= mean
    squares -= sums
    return mean, squares, sums


def _measure_shifted(
    x: np.ndarray, weight: np.ndarray | None, centred: np.ndarray
) -> tuple[BatchStatistics, np.ndarray, np.ndarray, np.ndarray]:
    """Measure by partial sums in x's dtype, after subtracting a rough mean if it is not small."""
    count = x.size // max(x.shape[1], 1)
    rough, _ = measure_wide(_sample(x))
    shift = rough.mean.astype(x.dtype)
    if x.dtype == np.float32 and (np.square(rough.mean) <= NEAR * rough.var).all():
        shift[...] = 0  # float64 has a pass to spare, and no digits
    offset, m2 = _moments(x, shift, centred, count)
    if (np.square(offset) * count > FAR * m2).any():  # the batch is not like its sample
        shift = (shift + offset).astype(x.dtype)
        offset, m2 = _moments(x, shift, centred, count)
    statistics = BatchStatistics(count, shift + offset, m2)
    var = statistics.var
    sure = (np.square(offset) <= FAR * var) & np.isfinite(var) & ((var == 0) | (var >= TINY))
    if weight is not None:
        sure &= np.abs(weight) <= WEIGHT
    doubtful = ~sure
    if doubtful.any():
        precise = measure(x[:, doubtful])
        statistics.mean[doubtful], statistics.m2[doubtful] = precise.mean, precise.m2
    return statistics, shift, offset, doubtful


def _moments(
    x: np.ndarray, shift: np.ndarray, centred: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `shift` misses of the mean, and Σ (x − mean)²; write x − shift to `centred`."""
    sums, squares, _ = centred_sums(x, shift, centred)
    offset = sums / max(count, 1)
    return offset, np.maximum(squares - sums * offset, 0)


def _sample(x: np.ndarray) -> np.ndarray:
    """Return about SAMPLE rows of one value of every channel, from as many samples as there are."""
    some = x[:: max(len(x) // SAMPLE, 1)]
    if x.ndim == 2 or x.size == 0:
        return np.ascontiguousarray(some)
    positions, each = math.prod(x.shape[2:]), max(SAMPLE // len(some), 2)
    # Neighbours are alike, and so are the same places of different images: the multiples of the
    # golden ratio spread over all.
    places = np.arange(1, len(some) * each + 1) * GOLDEN % 1 * positions
    places = places.astype(np.int64).reshape(len(some), each)
    rows = np.arange(len(some))[:, None]
    return some.reshape(*some.shape[:2], positions)[rows, :, places].reshape(-1, x.shape[1])
