"""BatchNorm of a batch whose shards lie in several places, in torch's four parts.

What a part returns is brought together before the next one: statistics are merged, sums added::

    batch_norm_stats            statistics of a shard           merged over the shards
    batch_norm_elemt            the shard's output by them
    batch_norm_backward_reduce  sums over the shard             added over the shards
    batch_norm_backward_elemt   the shard's input gradient by them

For one shard that is ``batch_norm_forward`` and ``batch_norm_backward``.
"""

import numpy as np

from npbn.functional.batch_norm import (
    BatchNormCache,
    gradient_dtype,
    input_gradient,
    normalise,
    sum_gradients,
)
from npbn.functional.batches import as_batch, as_vector, like
from npbn.functional.statistics import BatchStatistics, measure


def batch_norm_stats(x: np.ndarray) -> BatchStatistics:
    """Return count, mean and Σ (x − mean)² of each channel: what a forward pass measures."""
    return measure(x)


def batch_norm_elemt(
    x: np.ndarray,
    statistics: BatchStatistics,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
) -> tuple[np.ndarray, BatchNormCache]:
    """Normalise by statistics, of this batch or of one that it is a part of."""
    batch, count = as_batch(x), statistics.count
    y, vectors = np.empty_like(batch), np.zeros((5, x.shape[1]))
    vectors[:3] = statistics.moments
    affine = as_vector(weight), as_vector(bias)
    normalise(batch, vectors[2], max(count, 1), *affine, eps, vectors, y)
    return like(y, x), BatchNormCache(batch, vectors, count, gradient_dtype(weight))


def batch_norm_backward_reduce(
    grad_output: np.ndarray, cache: BatchNormCache
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ grad_output · x̂ and Σ grad_output, the gradients of weight and bias, in float64."""
    sums = np.empty((2, cache.x.shape[1]))
    sum_gradients(as_batch(grad_output), cache.x, cache.vectors, sums)
    return sums[0], sums[1]


def batch_norm_backward_elemt(
    grad_output: np.ndarray,
    cache: BatchNormCache,
    count: int,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray,
) -> np.ndarray:
    """Return the gradient of the input, `count` and the sums those of the whole batch."""
    grad = as_batch(grad_output)
    grad_input, sums = np.empty_like(grad), (grad_weight, grad_bias)
    input_gradient(grad, cache.x, cache.vectors, max(count, 1), *sums, grad_input)
    return like(grad_input, grad_output)
