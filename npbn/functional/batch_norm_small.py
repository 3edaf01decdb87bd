"""Batch normalisation of small float32 batches: the textbook, in float64 throughout.

float64 has 29 bits more than float32, so that nothing here can lose digits that would show: no
channel needs looking after, and where the loops are short that saves more than they cost. Read
this file first; :mod:`npbn.functional.batch_norm` has the equations and the larger batches.
"""

import numpy as np

from npbn.functional.batch_norm_exact import BatchNormCache
from npbn.functional.passes import per_channel, wide_sums, zeros
from npbn.functional.statistics import BatchStatistics
from npbn.functional.tuning import SMALL


def is_small(x: np.ndarray) -> bool:
    """Tell whether a batch takes this road."""
    return x.dtype == np.float32 and 0 < x.size <= SMALL


def small_forward(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    training: bool,
    eps: float,
) -> tuple[np.ndarray, BatchNormCache]:
    """Return the output in float64, and the cache; see ``batch_norm_forward``."""
    channels, ndim = x.shape[1], x.ndim
    wide = x.astype(np.float64)
    if training:
        # With one of the values as shift a constant channel is exactly 0 and its output the bias.
        shift = x[(0, slice(None), *(0,) * (ndim - 2))].copy()
        wide -= per_channel(shift, ndim)
        count = x.size // channels
        offset = wide_sums(wide) / count
        var = wide_sums(wide * wide) / count - offset * offset
        statistics = BatchStatistics(count, shift + offset, var * count)
    else:
        statistics, shift = None, running_mean.astype(x.dtype)
        # Statistics in float64 keep what float32 cannot hold of them.
        offset = np.subtract(running_mean, shift, dtype=np.float64)
        wide -= per_channel(shift, ndim)
        var = running_var.astype(np.float64)
    std = np.sqrt(var + eps)
    scale = (1.0 if weight is None else weight) / std
    wide *= per_channel(scale, ndim)
    wide += per_channel((0.0 if bias is None else bias) - offset * scale, ndim)
    exact = zeros(channels, np.bool_)
    return wide, BatchNormCache(x, shift, offset, std, weight, exact, statistics)


def small_backward(
    grad: np.ndarray, cache: BatchNormCache, input_grad: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias in float64; see ``batch_norm_backward``."""
    x, shift, offset, std, weight, _, statistics = cache
    ndim = x.ndim
    x_hat = x.astype(np.float64)
    x_hat -= per_channel(shift, ndim)
    x_hat -= per_channel(offset, ndim)
    x_hat /= per_channel(std, ndim)
    grad = grad.astype(np.float64)
    grad_bias, grad_weight = wide_sums(grad), wide_sums(grad * x_hat)
    if not input_grad:
        return None, grad_weight, grad_bias
    if statistics is not None:
        x_hat *= per_channel(grad_weight / statistics.count, ndim)
        grad -= x_hat
        grad -= per_channel(grad_bias / statistics.count, ndim)
    grad *= per_channel((1.0 if weight is None else weight) / std, ndim)
    return grad, grad_weight, grad_bias
