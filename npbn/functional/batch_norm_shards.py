"""BatchNorm of a batch in shards, for instance on several processes, in torch's steps.

::

    batch_norm_stats            statistics of a shard; then merged over the shards
    batch_norm_elemt            output of the shard, by the merged statistics
    updated_running_statistics  the merged statistics averaged in
    batch_norm_backward_reduce  sums over the shard; then added over the shards
    batch_norm_backward_elemt   input gradient of the shard, by the added sums

With one shard they compute ``batch_norm_forward`` and ``batch_norm_backward``.
"""

import numpy as np

from npbn.functional.batch_norm import (
    BatchNormCache,
    average,
    gradient_dtype,
    input_gradient,
    normalise,
    sum_gradients,
)
from npbn.functional.batches import as_batch, as_vector, like, rounded, scale_and_shift
from npbn.functional.statistics import BatchStatistics, measure


def batch_norm_stats(x: np.ndarray) -> BatchStatistics:
    """Return count, mean and Σ (x − mean)² of each channel.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), of a float dtype
        The input.

    Returns
    -------
    BatchStatistics
        Count, mean and Σ (x − mean)² of each channel.
    """
    return measure(x)


def batch_norm_elemt(
    x: np.ndarray,
    statistics: BatchStatistics,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
) -> tuple[np.ndarray, BatchNormCache]:
    """Normalise by statistics of the whole batch.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), of a float dtype
        The input.
    statistics : BatchStatistics
        Those of the whole batch.
    weight, bias : ndarray, shape (C,), or None
        Scale and shift; None means 1 and 0.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    y : ndarray, shape and dtype of x
        The output.
    cache : BatchNormCache
        What the backward function needs.
    """
    batch = as_batch(x)
    y, vectors = np.empty_like(batch), np.zeros((5, x.shape[1]))
    vectors[:3] = statistics.moments
    learnt = scale_and_shift(weight, bias, batch)
    normalise(batch, vectors[2], max(statistics.count, 1), *learnt, float(eps), vectors, y)
    return like(y, x), BatchNormCache(batch, statistics.count, vectors, gradient_dtype(weight))


def updated_running_statistics(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    statistics: BatchStatistics,
    momentum: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean and variance with a batch averaged in, as new arrays.

    Parameters
    ----------
    running_mean, running_var : ndarray, shape (C,), of a float dtype
        The averages so far.
    statistics : BatchStatistics
        An empty batch changes nothing.
    momentum : float
        Weight of the **new** value, as in torch.

    Returns
    -------
    running_mean : ndarray, shape (C,)
        The new average.
    running_var : ndarray, shape (C,)
        The same of the variance.
    """
    count, moments = statistics
    mean, var = running_mean.copy(), running_var.copy()
    if not count:
        return mean, var
    averages = np.empty((2, len(mean)), np.result_type(mean, var, np.float32))
    divisor = max(count - 1, 1)
    average(as_vector(mean), as_vector(var), moments, divisor, float(momentum), averages)
    return rounded(averages[0], mean.dtype), rounded(averages[1], var.dtype)


def batch_norm_backward_reduce(
    grad_output: np.ndarray, cache: BatchNormCache
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shard's sums, which are its gradients of weight and bias.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the shard's output
        Gradient of the loss with respect to the output.
    cache : BatchNormCache
        As :func:`batch_norm_elemt` returned it.

    Returns
    -------
    grad_weight : ndarray, shape (C,), float64
        Σ grad_output · x̂.
    grad_bias : ndarray, shape (C,), float64
        Σ grad_output.
    """
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
    """Return the gradient of the shard's input.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the shard's output
        Gradient of the loss with respect to the output.
    cache : BatchNormCache
        As :func:`batch_norm_elemt` returned it.
    count : int
        Values per channel in the whole batch.
    grad_weight, grad_bias : ndarray, shape (C,), float64
        Sums over the whole batch.

    Returns
    -------
    ndarray, shape and dtype of grad_output
        Gradient of the loss with respect to the input.
    """
    grad = as_batch(grad_output)
    grad_input, sums = np.empty_like(grad), (grad_weight, grad_bias)
    input_gradient(grad, cache.x, cache.vectors, max(count, 1), *sums, grad_input)
    return like(grad_input, grad_output)
