"""Batch normalisation: forward, backward and the running statistics.

For each channel, over the batch (and the positions L, or H and W, of the input), with
n values a channel [1]_, algorithm 1::

    mean = Σ x / n
    var  = Σ (x − mean)² / n                       biased
    x̂    = (x − mean) / sqrt(var + eps)
    y    = weight · x̂ + bias

In evaluation `mean` and `var` are the running statistics, which training has averaged::

    running_mean = (1 − momentum) · running_mean + momentum · mean
    running_var  = (1 − momentum) · running_var  + momentum · var · n / (n − 1)     unbiased

The mean is split: a part `shift` in the input's dtype, which is subtracted from x without
loss where it matters (Sterbenz), and a remainder `offset`, which goes into the bias::

    y = (x − shift) · a + (bias − offset · a),    a = weight / sqrt(var + eps)

The (C,) statistics are float64, the (N, C, ...) arrays the input's dtype (float16: float32).
A check of the statistics flags the channels for which that would lose digits; they alone take
a slow, exact road, in float64 throughout: see :mod:`npbn.functional.batch_norm_exact`.

**Accuracy.** With eps the machine epsilon of the input's dtype, for every finite input with up
to 10⁶ values a channel and |mean| / std up to 10⁶, against exact arithmetic:

- y: 8 eps · max(1, |weight · x̂|, |bias|); exactly `bias` in a constant channel
- batch mean: 2 eps · max(|mean|, std); batch variance: 4 eps · var; the running statistics
  likewise, wherever the result can be represented
- gradients: 8 eps · Σ|terms|, see :func:`batch_norm_backward`

References
----------
.. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
   Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.
"""

import numpy as np

from npbn.errors import ShapeError
from npbn.functional.batch_norm_exact import (
    BatchNormCache,
    columns,
    exact_gradients,
    exact_output,
    gradients_need_exact,
    needs_exact,
    remeasure,
)
from npbn.functional.checks import check_batch_norm
from npbn.functional.statistics import PARTIAL, BatchStatistics, channel_sums, per_channel


@np.errstate(all="ignore")
def batch_norm_forward(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    eps: float = 1e-5,
) -> tuple[np.ndarray, BatchNormCache]:
    """Normalise each channel; changes none of its arguments.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), float16, float32 or float64
    running_mean, running_var : ndarray, shape (C,), or None
        Used (and needed) when not training.
    weight, bias : ndarray, shape (C,), or None
        Scale and shift; None means 1 and 0.
    training : bool
        Whether the batch's own statistics normalise.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    y : ndarray, shape and dtype of x
    cache : BatchNormCache
        ``cache.statistics`` is what :func:`updated_running_statistics` takes.

    Notes
    -----
    The arguments are taken as checked (:func:`npbn.functional.checks.check_batch_norm`).
    """
    dtype, x = x.dtype, np.ascontiguousarray(x, np.result_type(x.dtype, np.float32))
    y = np.empty_like(x)
    if training:
        shift = _rough_mean(x)
        statistics, offset = _measure(x, shift, y)
        var = statistics.var
    else:
        shift = running_mean.astype(x.dtype)
        statistics, offset, var = None, np.zeros(len(shift)), running_var.astype(np.float64)
        for block in row_blocks(x):
            np.subtract(x[block], per_channel(shift, x.ndim), out=y[block])
    exact = needs_exact(offset, var, eps, shift, weight)
    inv_std = 1 / np.sqrt(var + eps)
    if exact.any():
        statistics, inv_std = remeasure(x, exact, statistics, inv_std, eps)

    a = inv_std if weight is None else weight * inv_std
    c = -offset * a if bias is None else bias - offset * a
    a, c = (per_channel(v.astype(x.dtype), x.ndim) for v in (a, c))
    for block in row_blocks(x):
        y[block] *= a
        y[block] += c
    cache = BatchNormCache(x, shift, offset, inv_std, weight, exact, statistics)
    if exact.any():
        y[:, exact] = exact_output(columns(cache, exact), bias if bias is None else bias[exact])
    return y.astype(dtype, copy=False), cache


@np.errstate(all="ignore")
def batch_norm_backward(
    grad_output: np.ndarray, cache: BatchNormCache, input_grad: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias.

    With g for `grad_output`, sums over a channel's n values, std = sqrt(var + eps)::

        grad_bias   = Σ g
        grad_weight = Σ g · x̂
        grad_input  = weight / std · (g − grad_bias / n − x̂ · grad_weight / n)

    When the running statistics normalised they are constants, and the last two terms of
    `grad_input` fall away. The second form follows from the equations of [1]_ (section 3)
    by collecting the paths through mean and variance.

    **Error bound**: 8 eps · Σ|terms|, the terms those of the sums above, with |x̂| + 1/2 for
    x̂ (the shift may miss the mean by std / 2). Derivation, in units u = eps / 2: a product
    g · (x − shift) loses 2 u, its partial sum of 8 at most 7 u, the factors in front 3 u; so
    grad_bias loses 8 u and grad_weight 12 u of their terms; grad_input loses 12 u in the
    factor of x − shift, 1 u in that itself, 1 u in the product and 2 u in the two sums. With
    more axes NumPy sums the positions by pairs, in blocks of up to 128 numbers, whose worst
    case is 18 u where 7 u stand above. Errors seen stay below 2 eps.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the forward pass's output
    cache : BatchNormCache
    input_grad : bool
        Whether `grad_input` is wanted; None is returned in its place otherwise.

    Returns
    -------
    grad_input : ndarray, shape and dtype of `grad_output`, or None
    grad_weight, grad_bias : ndarray, shape (C,), dtype of `weight`
        Without a weight: float64.

    References
    ----------
    .. [1] Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    x, shift, offset, inv_std, weight, exact, statistics = cache
    dtype, ndim = grad_output.dtype, x.ndim
    by_batch = statistics is not None and statistics.count > 0
    grad = np.ascontiguousarray(grad_output, x.dtype)
    grad_input = np.empty_like(x)  # holds x − shift first
    grad_bias, grad_centred = np.zeros(len(shift)), np.zeros(len(shift))
    for block in row_blocks(x):
        np.subtract(x[block], per_channel(shift, ndim), out=grad_input[block])
        grad_bias += channel_sums(grad[block])
        grad_centred += channel_sums(grad[block] * grad_input[block])
    grad_weight = (grad_centred - offset * grad_bias) * inv_std

    # grad_input = a · g + b · (x − shift) + c
    a = inv_std if weight is None else weight * inv_std
    b = -a * inv_std * grad_weight / statistics.count if by_batch else 0 * a
    c = -a * grad_bias / statistics.count - offset * b if by_batch else 0 * a
    exact = exact | gradients_need_exact(a, b, c, grad_weight)
    factors = [per_channel(factor.astype(x.dtype), ndim) for factor in (a, b, c)]
    if input_grad:
        for block in row_blocks(x):
            _combine(grad[block], grad_input[block], *factors, by_batch)
    if exact.any():
        grad_input[:, exact], grad_weight[exact], grad_bias[exact] = exact_gradients(
            grad[:, exact], columns(cache, exact)
        )
    if weight is not None:
        grad_weight, grad_bias = grad_weight.astype(weight.dtype), grad_bias.astype(weight.dtype)
    if not input_grad:
        return None, grad_weight, grad_bias
    return grad_input.astype(dtype, copy=False), grad_weight, grad_bias


# -- the ordinary road ------------------------------------------------------------------------

# A block is what one loop works on at a time: it and a scratch array of its size stay in the
# second-level cache (1 MB on the machines measured; 64 KB blocks were slower).
BLOCK_BYTES = 256 * 1024
SAMPLE = 64  # rows of which a rough mean is taken: it misses the mean by about std / 8


def row_blocks(x: np.ndarray) -> list[slice]:
    """Return the slices of axis 0 that cut `x` into blocks of about BLOCK_BYTES."""
    row_bytes = max(x.nbytes // max(len(x), 1), 1)
    rows = max(BLOCK_BYTES // row_bytes // PARTIAL, 1) * PARTIAL
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def _combine(
    grad: np.ndarray,
    out: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    by_batch: bool,
) -> None:
    """Write a · grad + b · out + c to `out`; when constants normalised, a · grad."""
    if not by_batch:
        np.multiply(grad, a, out=out)
        return
    out *= b
    out += c
    out += grad * a


def _rough_mean(x: np.ndarray) -> np.ndarray:
    """Return about the mean of each channel, in x's dtype: to subtract before summing."""
    sample = x[:: max(len(x) // SAMPLE, 1)]
    count = max(sample.size // max(x.shape[1], 1), 1)
    return (channel_sums(sample) / count).astype(x.dtype)


def _measure(
    x: np.ndarray, shift: np.ndarray, centred: np.ndarray
) -> tuple[BatchStatistics, np.ndarray]:
    """Write x − shift to `centred`; return the statistics and how far the mean is from shift."""
    count = x.size // x.shape[1] if x.size else 0
    total, squares = np.zeros(len(shift)), np.zeros(len(shift))
    for block in row_blocks(x):
        np.subtract(x[block], per_channel(shift, x.ndim), out=centred[block])
        total += channel_sums(centred[block])
        squares += channel_sums(np.square(centred[block]))
    offset = total / max(count, 1)
    m2 = np.maximum(squares - total * offset, 0)
    return BatchStatistics(count, shift + offset, m2), offset


@np.errstate(all="ignore")
def updated_running_statistics(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    statistics: BatchStatistics,
    momentum: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean and variance with a batch averaged in, as new arrays.

    `momentum` is the weight of the **new** value, as in torch; an empty batch has no value
    and changes nothing.
    """
    if statistics.count == 0:
        return running_mean.copy(), running_var.copy()
    averaged = (
        (1 - momentum) * old.astype(np.float64) + momentum * new
        for old, new in (
            (running_mean, statistics.mean),
            (running_var, statistics.unbiased_var),
        )
    )
    mean, var = averaged
    return mean.astype(running_mean.dtype), var.astype(running_var.dtype)


def batch_norm(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    """Normalise each channel of a batch, with the signature of torch's function.

    When training, `running_mean` and `running_var` (if given) are updated **in place**,
    as torch does; it is the one function of npbn that writes into its arguments.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), float16, float32 or float64
    running_mean, running_var : ndarray, shape (C,), or None
    weight, bias : ndarray, shape (C,), or None
    training : bool
        Normalise with the batch's statistics instead of the running ones.
    momentum : float
        Weight of the new value in the running statistics.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    ndarray, shape and dtype of x

    Raises
    ------
    ShapeError, DtypeError, BatchSizeError
        If they do not fit together; nothing has been changed then.
    ValueError
        If `eps` is not positive in training (negative in evaluation), or the running
        statistics are missing in evaluation.

    Examples
    --------
    >>> import numpy as np
    >>> from npbn.functional import batch_norm
    >>> mean, var = np.zeros(1), np.ones(1)
    >>> batch_norm(np.array([[1.0], [3.0]]), mean, var, training=True, eps=1e-12)
    array([[-1.],
           [ 1.]])
    >>> mean, var       # 0.9 · 0 + 0.1 · 2, and 0.9 · 1 + 0.1 · 2, the variance unbiased
    (array([0.2]), array([1.1]))
    """
    x = np.asarray(x)
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: expected input of shape (N, C, ...), got {x.shape}")
    vectors = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    check_batch_norm("batch_norm", x, x.shape[1], vectors, training, eps)
    y, cache = batch_norm_forward(x, running_mean, running_var, weight, bias, training, eps)
    if training and running_mean is not None:
        running_mean[...], running_var[...] = updated_running_statistics(
            running_mean, running_var, cache.statistics, momentum
        )
    return y
