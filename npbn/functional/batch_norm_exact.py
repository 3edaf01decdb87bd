"""The slow, exact road of batch normalisation: float64 throughout, for the channels that need it.

Which they are is decided by checks of (C,) statistics, which cost next to nothing; one dead or
enormous channel is mended without slowing the others.
"""

from typing import NamedTuple

import numpy as np

from npbn.functional.statistics import (
    BatchStatistics,
    centre,
    channel_sums,
    measure,
    per_channel,
)

# float32 ends at 3.4e38 and 1.2e-38: between these bounds neither a square of a deviation nor
# its product with a factor leaves it. (float64 needs no such care before 1e±150, but what few
# channels are flagged below may take the road too.)
TINY, HUGE = 1e-30, 1e30


class BatchNormCache(NamedTuple):
    """What :func:`batch_norm_backward` needs of the forward pass.

    Attributes
    ----------
    x : ndarray, shape (N, C, ...)
        The input, by reference (float16: as float32).
    shift : ndarray, shape (C,), dtype of x
    offset : ndarray, shape (C,), float64
        The mean is shift + offset.
    inv_std : ndarray, shape (C,), float64
        1 / sqrt(var + eps).
    weight : ndarray, shape (C,), or None
        The scale, as it was given.
    exact : ndarray, shape (C,), bool
        Channels that take the exact road.
    statistics : BatchStatistics or None
        The batch's own; None when the running statistics normalised.
    """

    x: np.ndarray
    shift: np.ndarray
    offset: np.ndarray
    inv_std: np.ndarray
    weight: np.ndarray | None
    exact: np.ndarray
    statistics: BatchStatistics | None

    @property
    def x_hat(self) -> np.ndarray:
        """The normalised input in float64, computed anew: for inspection."""
        if self.statistics is not None:
            deviation = centre(self.x)[0]
        else:
            deviation = self.x - per_channel(self.shift.astype(np.float64), self.x.ndim)
        return deviation * per_channel(self.inv_std, self.x.ndim)


def needs_exact(
    offset: np.ndarray,
    var: np.ndarray,
    eps: float,
    shift: np.ndarray,
    weight: np.ndarray | None,
) -> np.ndarray:
    """Flag the channels whose digits the ordinary road might lose.

    They are those where what the shift misses of the mean is not small (offset² > var / 4),
    where squares may leave the range of float32 (var + eps outside [1e-25, 1e30], a variance
    below 1e-30 that is not 0, a mean beyond 1e30), where a weight above 4 magnifies the
    mean's rounding error, and all that is not finite.
    """
    spread = var + eps
    ordinary = (np.square(offset) <= var / 4) & (spread >= 1e-25) & (spread <= HUGE)
    ordinary &= (np.abs(shift) <= HUGE) & ((var == 0) | (var >= TINY))
    if weight is not None:
        ordinary &= np.abs(weight) <= 4
    return ~ordinary


def remeasure(
    x: np.ndarray,
    exact: np.ndarray,
    statistics: BatchStatistics | None,
    inv_std: np.ndarray,
    eps: float,
) -> tuple[BatchStatistics | None, np.ndarray]:
    """Return statistics and inv_std with the flagged channels measured in float64."""
    if statistics is None:
        return None, inv_std
    precise = measure(x[:, exact])
    statistics.mean[exact], statistics.m2[exact] = precise.mean, precise.m2
    inv_std[exact] = 1 / np.sqrt(precise.var + eps)
    return statistics, inv_std


def columns(cache: BatchNormCache, channels: np.ndarray) -> BatchNormCache:
    """Return the cache of these channels alone."""
    vectors = (
        None if v is None else v[channels]
        for v in (cache.shift, cache.offset, cache.inv_std, cache.weight, cache.exact)
    )
    return BatchNormCache(cache.x[:, channels], *vectors, cache.statistics)


def exact_output(cache: BatchNormCache, bias: np.ndarray | None) -> np.ndarray:
    """Return weight · x̂ + bias in float64."""
    y, ndim = cache.x_hat, cache.x.ndim
    if cache.weight is not None:
        y *= per_channel(cache.weight, ndim)
    if bias is not None:
        y += per_channel(bias, ndim)
    return y


def gradients_need_exact(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, grad_weight: np.ndarray
) -> np.ndarray:
    """Flag the channels for which a · g + b · (x − shift) + c, or a sum, leaves float32."""
    ordinary = np.isfinite(grad_weight)
    for factor in (np.abs(a), np.abs(b), np.abs(c)):
        ordinary &= factor <= HUGE  # False for NaN
    for factor in (np.abs(a), np.abs(b)):
        ordinary &= (factor == 0) | (factor >= TINY)
    return ~ordinary


def exact_gradients(
    grad: np.ndarray, cache: BatchNormCache
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias in float64."""
    x_hat, ndim = cache.x_hat, cache.x.ndim
    grad = grad.astype(np.float64)
    grad_bias, grad_weight = channel_sums(grad), channel_sums(grad * x_hat)
    if cache.statistics is not None and cache.statistics.count:
        grad -= per_channel(grad_bias / cache.statistics.count, ndim)
        grad -= x_hat * per_channel(grad_weight / cache.statistics.count, ndim)
    scale = cache.inv_std if cache.weight is None else cache.inv_std * cache.weight
    return grad * per_channel(scale, ndim), grad_weight, grad_bias
