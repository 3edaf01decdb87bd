"""Batch normalisation in four parts, for a batch whose shards lie in several places.

The parts are torch's, and so are their names. What a part returns is to be brought together
before the next one: statistics are merged, sums are added::

    batch_norm_stats            statistics of a shard           merged over the shards
    batch_norm_elemt            the shard's output by them
    batch_norm_backward_reduce  sums over the shard             added over the shards
    batch_norm_backward_elemt   the shard's input gradient by them

For one shard that is :func:`npbn.functional.batch_norm_forward` and ``batch_norm_backward``, whose
equations and error bounds hold here too as long as float64 has digits to spare, which it has for
float32. Of float64 input the merged mean is rounded once, and so much is lost of it:
2⁻⁵³ · |mean| / std in y.
"""

import numpy as np

from npbn.functional.batch_measure import measure_batch, measure_wide
from npbn.functional.batch_norm import batch_norm_backward, batch_norm_forward
from npbn.functional.batch_norm_exact import (
    MISSED,
    BatchNormCache,
    columns,
    gradients_need_exact,
    ordinary_gradients,
    split,
    within,
)
from npbn.functional.batch_norm_small import is_small
from npbn.functional.passes import combine, per_channel, subtract
from npbn.functional.statistics import BatchStatistics, measure


@np.errstate(all="ignore")
def batch_norm_stats(x: np.ndarray, weight: np.ndarray | None = None) -> BatchStatistics:
    """Return the statistics of a shard: count, mean and Σ (x − mean)² of each channel, in float64.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), float16, float32 or float64
        May be empty.
    weight : ndarray, shape (C,), or None
        The scale that is to be applied: a large one asks for more digits.
    """
    x = np.ascontiguousarray(x, np.float32 if x.dtype == np.float16 else x.dtype)
    if x.size == 0:
        return measure(x)
    if is_small(x):
        return measure_wide(x)[0]
    return measure_batch(x, weight, np.empty_like(x))[0]


def batch_norm_elemt(
    x: np.ndarray,
    statistics: BatchStatistics,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
) -> tuple[np.ndarray, BatchNormCache]:
    """Return weight · (x − mean) / sqrt(var + eps) + bias, and what the backward parts need."""
    return batch_norm_forward(x, statistics.mean, statistics.var, weight, bias, eps=eps)


def batch_norm_backward_reduce(
    grad_output: np.ndarray, cache: BatchNormCache
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ grad_output · x̂ and Σ grad_output over the shard, (C,) in float64.

    They are the shard's gradients of weight and bias.
    """
    unscaled = cache._replace(weight=None)  # whose dtype the sums would take on
    return batch_norm_backward(grad_output, unscaled, input_grad=False)[1:]


@np.errstate(all="ignore")
def batch_norm_backward_elemt(
    grad_output: np.ndarray,
    cache: BatchNormCache,
    count: int,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray,
) -> np.ndarray:
    """Return the gradient of the shard's input.

    With n for `count`, the values per channel of all shards, and the sums over all of them::

        weight / std · (grad_output − grad_bias / n − x̂ · grad_weight / n)
    """
    x = cache.x
    grad = np.ascontiguousarray(grad_output, x.dtype)
    scale = (1.0 if cache.weight is None else cache.weight) / cache.std
    sums = scale, grad_weight / max(count, 1), grad_bias / max(count, 1)
    grad_input = _exact(grad, cache, *sums) if is_small(x) else _combined(grad, cache, *sums)
    return grad_input.astype(grad_output.dtype, copy=False)


def _exact(
    grad: np.ndarray,
    cache: BatchNormCache,
    scale: np.ndarray,
    mean_weight: np.ndarray,
    mean_bias: np.ndarray,
) -> np.ndarray:
    """Compute in float64, the equation as it stands."""
    ndim = cache.x.ndim
    x_hat = cache.x_hat
    x_hat *= per_channel(mean_weight, ndim)
    wide = grad - x_hat
    wide -= per_channel(mean_bias, ndim)
    wide *= per_channel(scale, ndim)
    return wide


def _combined(
    grad: np.ndarray,
    cache: BatchNormCache,
    scale: np.ndarray,
    mean_weight: np.ndarray,
    mean_bias: np.ndarray,
) -> np.ndarray:
    """Compute as a · grad + b · (x − shift) + c in the input's dtype, and some channels exactly."""
    shift, offset = cache.shift, cache.offset
    if not within(offset / cache.std, MISSED):
        shift, offset = split(shift, offset)
    b = -scale * mean_weight / cache.std
    factors = np.stack([scale, b, -scale * mean_bias - offset * b])
    grad_input, centred = np.empty_like(cache.x), cache.x
    if np.count_nonzero(shift):
        subtract(cache.x, shift, out=grad_input)
        centred = grad_input
    combine(grad, centred, *factors, out=grad_input)
    exact, missed = cache.exact, offset / cache.std
    if not ordinary_gradients(factors, missed):
        exact = exact | gradients_need_exact(factors, missed)
    if np.count_nonzero(exact):
        vectors = (vector[exact] for vector in (scale, mean_weight, mean_bias))
        grad_input[:, exact] = _exact(grad[:, exact], columns(cache, exact), *vectors)
    return grad_input
