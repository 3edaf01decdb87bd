"""The slow, exact road of batch normalisation: float64 throughout, for the channels that need it.

Which they are is decided by checks of (C,) statistics, which cost next to nothing; one dead or
enormous channel is mended without slowing the others.
"""

from typing import NamedTuple

import numpy as np

from npbn.functional.passes import channel_sums, per_channel
from npbn.functional.statistics import BatchStatistics, centre

# float32 ends at 3.4e38 and 1.2e-38: between these bounds neither a square of a deviation nor
# its product with a factor leaves it. (float64 needs no such care before 1e±150, but what few
# channels are flagged below may take the road too.)
TINY, HUGE = 1e-30, 1e30
# What the shift may miss of the mean. Of M = |offset · a|, a rounded beforehand, the output loses
# in units of eps: the product (|wx̂| + M) / 2, the rounding of a |wx̂| / 2, of the bias
# (|b| + M) / 2, the sum (|wx̂| + |b|) / 2: together 7.5 of the contract's 8 at M = 5. The terms
# of the gradients grow by |offset| / std.
MOVED, MISSED = 5.0, 0.5


class BatchNormCache(NamedTuple):
    """What :func:`batch_norm_backward` needs of the forward pass.

    Attributes
    ----------
    x : ndarray, shape (N, C, ...)
        The input, by reference (float16: as float32).
    shift : ndarray, shape (C,), dtype of x
    offset : ndarray, shape (C,), float64
        The mean is shift + offset.
    std : ndarray, shape (C,), float64
        sqrt(var + eps).
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
    std: np.ndarray
    weight: np.ndarray | None
    exact: np.ndarray
    statistics: BatchStatistics | None

    @property
    def inv_std(self) -> np.ndarray:
        """1 / sqrt(var + eps)."""
        return 1 / self.std

    @property
    def x_hat(self) -> np.ndarray:
        """The normalised input in float64, computed anew: for inspection."""
        if self.statistics is not None:
            deviation = centre(self.x)[0]
        else:
            mean = self.shift + self.offset  # one of the two is 0: no rounding
            deviation = self.x - per_channel(mean, self.x.ndim)
        return deviation / per_channel(self.std, self.x.ndim)


def within(values: np.ndarray, limit: float) -> bool:
    """Tell whether no magnitude is above the limit, or NaN."""
    return np.count_nonzero(np.abs(values) <= limit) == values.size


def split(shift: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean shift + offset with as much of it in the shift as its dtype can hold."""
    nearest = (shift + offset).astype(shift.dtype)
    rest = (shift.astype(np.float64) - nearest) + offset
    return nearest, np.where(np.isfinite(nearest), rest, 0.0)  # ∞ − ∞ would be NaN


def in_range(a: np.ndarray, std: np.ndarray) -> bool:
    """Tell, quickly, that no factor and no deviation is near the ends of float32, or NaN.

    A False only means: ask :func:`output_needs_exact`, which looks at each channel.
    """
    return bool(a @ a <= HUGE and std @ std <= HUGE)


def output_needs_exact(
    a: np.ndarray, moved: np.ndarray, std: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Flag the channels for which (x − shift) · a + bias − moved might lose digits.

    They are those where what the shift misses of the mean, `moved` = offset · a, is not small
    (rounding loses |moved| eps), where a number leaves the range of
    float32 (|a|, |shift| or std above 1e30), and all that is not finite.
    """
    ordinary = (np.abs(a) <= HUGE) & (std <= HUGE) & (np.abs(moved) <= MOVED)
    return ~(ordinary & (np.abs(shift) <= HUGE))


def columns(cache: BatchNormCache, channels: np.ndarray) -> BatchNormCache:
    """Return the cache of these channels alone."""
    vectors = (
        None if v is None else v[channels]
        for v in (cache.shift, cache.offset, cache.std, cache.weight, cache.exact)
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


def ordinary_gradients(factors: np.ndarray, missed: np.ndarray) -> bool:
    """Tell, quickly, that no channel's gradients need the exact road; False: ask each."""
    flat = factors.reshape(-1)
    return bool(
        flat @ flat <= HUGE
        and np.count_nonzero(np.abs(flat) >= TINY) == np.count_nonzero(flat)
        and within(missed, MISSED)
    )


def gradients_need_exact(factors: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Flag the channels for which a · g + b · (x − shift) + c, or a sum, leaves float32.

    `factors`, shape (3, C), are a, b and c; `missed` is offset / std, above MISSED of which
    the sums of g · (x − shift) would cancel.
    """
    magnitudes = np.abs(factors)
    ordinary = magnitudes <= HUGE  # False for NaN
    ordinary &= (magnitudes >= TINY) | (magnitudes == 0)
    return ~(ordinary.all(axis=0) & (np.abs(missed) <= MISSED))


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
    scale = (1.0 if cache.weight is None else cache.weight) / cache.std
    return grad * per_channel(scale, ndim), grad_weight, grad_bias
