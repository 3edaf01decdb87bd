"""Batch normalisation: forward, backward and the running statistics.

For each channel, with n values in the batch (over the samples, and the positions L, or H and W)
[1]_, algorithm 1::

    mean = Σ x / n
    var  = Σ (x − mean)² / n                       biased
    x̂    = (x − mean) / sqrt(var + eps)
    y    = weight · x̂ + bias

In evaluation `mean` and `var` are the running statistics, averaged in training::

    running_mean = (1 − momentum) · running_mean + momentum · mean
    running_var  = (1 − momentum) · running_var  + momentum · var · n / (n − 1)     unbiased

This file has all the mathematics, on vectors with one number for each channel. Four passes of the
engine compute with the large arrays: read :mod:`npbn.engines.numpy_.batch_norm` next.

**Accuracy.** All is computed in float64 and rounded once. For every finite float32 input up to
1e37, with up to 10⁶ values a channel and |mean| / std up to 10⁶, with eps that of float32:

- y: eps · max(1, |weight · x̂|, |bias|), eps / 2 of |y|; exactly `bias` in a constant channel
- batch mean: eps · max(|mean|, std); batch variance: 2 eps · var
- running statistics, where they can be represented: 2 eps · (|1 − momentum| · |old| + |momentum| ·
  |new|), new being max(|mean|, std) and var · n / (n − 1): old and new of the mean may cancel
- gradients: 4 eps · Σ|terms|, the terms of :func:`batch_norm_backward`

float16 is computed as float32 and rounded once more. For float64 take 600 · 2⁻⁵³ for eps, and
|weight| + |weight · x̂| + |bias| in y: a sum loses up to (520 + log₂ n) · 2⁻⁵³ of its Σ|terms|. In
float32 too y may lose 600 · 2⁻⁵³ · |weight|, which shows from |weight| = 10⁶ · max(1, |bias|) on
where x is nearly the mean. And float64 has the range in which Σ (x − mean)² is finite, |x − mean|
up to some 10¹⁵⁴ / √n: beyond, var is inf and y is `bias`, or both are NaN (torch's is `bias`).

References
----------
.. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
   Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.
"""

from typing import NamedTuple

import numpy as np

from npbn.engines import affine, combine, fused, moments, reduce
from npbn.functional.batches import as_batch, as_vector, like, rounded, scale_and_shift
from npbn.functional.checks import FLOAT16, FLOAT32, FLOAT64
from npbn.functional.statistics import BatchStatistics

Array = np.ndarray


class BatchNormCache(NamedTuple):
    """What the backward pass needs of the forward pass.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, P)
        The input, by reference where it was C-contiguous and writeable; float16 as float32.
    count : int or None
        Values per channel in the batch; None if the running statistics normalised.
    vectors : ndarray, shape (5, C), float64
        In this order: mean, rest and m2 (of :class:`BatchStatistics`), std = sqrt(var + eps), and
        scale = weight / std.
    dtype : numpy.dtype
        That of the gradients of weight and bias: the weight's, or float64 without one.
    """

    x: np.ndarray
    count: int | None  # type: ignore[assignment]  # in place of tuple.count
    vectors: np.ndarray
    dtype: np.dtype

    @property
    def statistics(self) -> BatchStatistics | None:
        """Those that normalised, of the whole batch; None if the running statistics did."""
        return None if self.count is None else BatchStatistics(self.count, self.vectors[:3])

    @property
    def x_hat(self) -> np.ndarray:
        """The normalised input, in float64 and x's shape; computed at each access."""
        mean, rest, _, std, _ = self.vectors if self.x.ndim == 2 else self.vectors[:, :, None]
        with np.errstate(all="ignore"):
            return np.asarray(((self.x - mean) - rest) / std)


def batch_norm_forward(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    eps: float = 1e-5,
) -> tuple[np.ndarray, BatchNormCache]:
    """Normalise each channel; change none of the arguments, and check none.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), float16, float32 or float64
        The input.
    running_mean, running_var : ndarray, shape (C,), or None
        Used (and needed) when not training.
    weight, bias : ndarray, shape (C,), or None
        Scale and shift; None means 1 and 0.
    training : bool
        Whether the statistics of the batch normalise.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    y : ndarray, shape and dtype of x
        The output.
    cache : BatchNormCache
        ``cache.statistics`` is what :func:`updated_running_statistics` takes.
    """
    if training:
        return normalise_and_average(x, None, None, weight, bias, 0.0, eps)[:2]
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm_forward: expected running statistics in evaluation, got None")
    batch, vectors = as_batch(x), np.empty((5, x.shape[1]))
    vectors[0], vectors[1], vectors[2] = running_mean, 0, 0
    y, learnt = np.empty_like(batch), scale_and_shift(weight, bias, batch)
    normalise(batch, as_vector(running_var), 1, *learnt, float(eps), vectors, y)
    return like(y, x), BatchNormCache(batch, None, vectors, gradient_dtype(weight))


def normalise_and_average(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    momentum: float,
    eps: float,
) -> tuple[np.ndarray, BatchNormCache, tuple[Array, Array]]:
    """Normalise by the batch; return the new running mean and variance too (if empty: the old)."""
    batch, vectors = as_batch(x), np.empty((5, x.shape[1]))
    y, learnt = np.empty_like(batch), scale_and_shift(weight, bias, batch)
    if running_mean is None or running_var is None:
        running_mean, running_var = np.zeros((2, x.shape[1]), batch.dtype)
    mean, var = as_vector(running_mean), as_vector(running_var)
    averages = np.empty((2, x.shape[1]), mean.dtype)
    count = _by_the_batch(
        batch, *learnt, float(eps), vectors, y, mean, var, float(momentum), averages
    )
    cache = BatchNormCache(batch, count, vectors, gradient_dtype(weight))
    if count:
        averages = rounded(averages, running_mean.dtype)
        running_mean, running_var = averages[0], averages[1]  # unpacking takes 0.6 µs more
    return like(y, x), cache, (running_mean, running_var)


# Fused functions write their results into arguments: to return an array takes 0.8 µs. They do so by
# ufuncs: with `out[...] = ` numba takes two seconds more to compile them.


@fused
def _by_the_batch(
    x: Array,
    weight: Array,
    bias: Array,
    eps: float,
    vectors: Array,
    y: Array,
    running_mean: Array,
    running_var: Array,
    momentum: float,
    averages: Array,
) -> int:
    count = moments(x, vectors)
    normalise(x, vectors[2], max(count, 1), weight, bias, eps, vectors, y)
    average(running_mean, running_var, vectors, max(count - 1, 1), momentum, averages)
    return count


@fused
def normalise(
    x: Array, m2: Array, n: int, weight: Array, bias: Array, eps: float, vectors: Array, y: Array
) -> None:
    """Write y, std and scale, from mean and rest in `vectors` and the variance m2 / n."""
    mean, rest, std, scale = vectors[0], vectors[1], vectors[3], vectors[4]
    np.sqrt(m2.astype(np.float64) / n + eps, std)
    np.divide(weight, std, scale)
    affine(x, mean, rest, scale, bias.astype(np.float64), y)


def gradient_dtype(weight: np.ndarray | None) -> np.dtype:
    """Return the dtype of the gradients of weight and bias: float64 without a weight."""
    return FLOAT64 if weight is None else weight.dtype


def batch_norm_backward(
    grad_output: np.ndarray, cache: BatchNormCache, input_grad: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias.

    Write g for `grad_output`, d = x − mean, std = sqrt(var + eps) and x̂ = d / std. Sums go over the
    n values j of a channel.

    **Scale and shift.** From y = weight · x̂ + bias::

        grad_bias   = Σ g
        grad_weight = Σ g · x̂
        ∂L/∂x̂_i     = weight · g_i

    **Through the deviation d.** x̂_i depends on d_i directly, and all x̂_j depend on it through std.
    With ∂var/∂d_i = 2 d_i / n and ∂std/∂var = 1 / (2 std)::

        ∂std/∂d_i = d_i / (n · std) = x̂_i / n
        ∂L/∂std   = Σ ∂L/∂x̂_j · (−d_j / std²) = −weight / std · Σ g_j · x̂_j
        ∂L/∂d_i   = ∂L/∂x̂_i / std + ∂L/∂std · ∂std/∂d_i
                  = weight / std · (g_i − x̂_i · grad_weight / n)

    **Through the mean.** d_i = x_i − Σ x_j / n, so that every d_j depends on x_i, with −1 / n::

        ∂L/∂x_i = ∂L/∂d_i − Σ ∂L/∂d_j / n

    and since Σ x̂_j = 0, Σ ∂L/∂d_j = weight / std · grad_bias. Together::

        grad_input = weight / std · (g − x̂ · grad_weight / n − grad_bias / n)

    which the engine computes as a · g + b · d + c. When the running statistics normalised, mean and
    std are constants: only the first term, a · g, is left.

    The sums, a, b and c have float64's errors; a float32 result is rounded once, eps / 2.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the forward pass's output
        Gradient of the loss with respect to the output.
    cache : BatchNormCache
        The cache that the forward function returned.
    input_grad : bool
        Whether to compute `grad_input`; None is returned in its place otherwise.

    Returns
    -------
    grad_input : ndarray, shape and dtype of `grad_output`, or None
        Gradient of the loss with respect to the input.
    grad_weight, grad_bias : ndarray, shape (C,), dtype of `weight`
        Without a weight: float64.
    """
    x, count, vectors, dtype = cache
    grad = as_batch(grad_output)
    sums = np.empty((2, x.shape[1]), FLOAT32 if dtype == FLOAT16 else dtype)
    grad_input = np.empty_like(grad) if input_grad else None
    if grad_input is not None and count:
        _gradients(grad, x, vectors, count, sums, grad_input)
    else:
        sum_gradients(grad, x, vectors, sums)
        if grad_input is not None:
            _scaled(grad, vectors, grad_input)
    sums = rounded(sums, dtype)
    return None if grad_input is None else like(grad_input, grad_output), sums[0], sums[1]


@fused
def _gradients(
    grad: Array, x: Array, vectors: Array, count: int, sums: Array, grad_input: Array
) -> None:
    grad_bias, products = reduce(grad, x, vectors[0], vectors[1])
    grad_weight = products / vectors[3]
    input_gradient(grad, x, vectors, count, grad_weight, grad_bias, grad_input)
    np.positive(grad_weight, sums[0])
    np.positive(grad_bias, sums[1])


@fused
def input_gradient(
    grad: Array, x: Array, vectors: Array, n: int, grad_weight: Array, grad_bias: Array, out: Array
) -> None:
    """Write the gradient of the input, from n and sums of the whole batch."""
    mean, rest, std, a = vectors[0], vectors[1], vectors[3], vectors[4]
    b = -a * grad_weight / (n * std)
    c = -a * grad_bias / n
    combine(grad, x, mean, rest, a, b, c, out)


@fused
def sum_gradients(grad: Array, x: Array, vectors: Array, sums: Array) -> None:
    """Write the gradients of weight and bias."""
    grad_bias, products = reduce(grad, x, vectors[0], vectors[1])
    np.divide(products, vectors[3], sums[0])
    np.positive(grad_bias, sums[1])


@fused
def _scaled(grad: Array, vectors: Array, grad_input: Array) -> None:
    scale = vectors[4]
    nothing = np.zeros(len(scale))
    affine(grad, nothing, nothing, scale, nothing, grad_input)


@fused
def average(
    running_mean: Array,
    running_var: Array,
    moments: Array,
    divisor: int,
    momentum: float,
    averages: Array,
) -> None:
    """Write the new running mean and variance."""
    keep, mean, var = 1.0 - momentum, moments[0], moments[2] / divisor
    np.add(keep * running_mean.astype(np.float64), momentum * mean, averages[0])
    np.add(keep * running_var.astype(np.float64), momentum * var, averages[1])
