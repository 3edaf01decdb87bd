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
from npbn.functional.batch_measure import measure_batch
from npbn.functional.batch_norm_exact import (
    HUGE,
    MISSED,
    BatchNormCache,
    columns,
    exact_gradients,
    exact_output,
    gradients_need_exact,
    ordinary_gradients,
    ordinary_output,
    output_needs_exact,
    split,
    within,
)
from npbn.functional.checks import check_batch_norm
from npbn.functional.passes import (
    combine,
    scale,
    scale_shift,
    subtract,
    sums_and_dots,
    zeros,
)
from npbn.functional.statistics import BatchStatistics


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
    dtype = x.dtype
    x = np.ascontiguousarray(x, np.float32 if dtype == np.float16 else dtype)
    y = np.empty_like(x)
    if training:
        statistics, shift, offset, exact = measure_batch(x, weight, y)
        var = statistics.var
    else:
        statistics, channels = None, len(running_mean)
        shift, exact = zeros(channels, x.dtype), zeros(channels, np.bool_)
        offset, var = running_mean.astype(np.float64), running_var.astype(np.float64)
    std = np.sqrt(var + eps)
    a = (1.0 if weight is None else weight) / std
    moved = offset * a
    centred = np.count_nonzero(shift) > 0
    constant = not training and np.count_nonzero(var) < len(var)  # to give exactly the bias
    if not centred and (constant or not ordinary_output(a, moved, std)):
        shift, offset = split(shift, offset)
        subtract(x, shift, out=y)
        moved, centred = offset * a, True
    if centred and not (ordinary_output(a, moved, std) and within(shift, HUGE)):
        exact = exact | output_needs_exact(a, moved, std, shift)
    c = -moved if bias is None else bias - moved
    scale_shift(y if centred else x, a, c, out=y)
    cache = BatchNormCache(x, shift, offset, std, weight, exact, statistics)
    if np.count_nonzero(exact):
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
    x, shift, offset, std, weight, exact, statistics = cache
    dtype, count = grad_output.dtype, 0 if statistics is None else statistics.count
    grad = np.ascontiguousarray(grad_output, x.dtype)
    grad_input = np.empty_like(x)
    missed = offset / std
    if not within(missed, MISSED):
        shift, offset = split(shift, offset)
        missed = offset / std
    centred = x
    if np.count_nonzero(shift):
        centred = grad_input
        subtract(x, shift, out=centred)
    grad_bias, grad_weight = sums_and_dots(grad, centred)
    grad_weight -= offset * grad_bias
    grad_weight /= std

    # grad_input = a · g + b · (x − shift) + c, where the running statistics normalised a · g
    factors = np.zeros((3, len(shift)))
    a, b, c = factors
    np.divide(1.0 if weight is None else weight, std, out=a)
    if count:
        per_value = a / -count
        np.multiply(per_value, grad_weight, out=b)
        b /= std
        np.multiply(per_value, grad_bias, out=c)
        c -= offset * b
    if not ordinary_gradients(factors, missed):
        exact = exact | gradients_need_exact(factors, missed) | ~np.isfinite(grad_weight)
    if input_grad and count:
        combine(grad, centred, a, b, c, out=grad_input)
    elif input_grad:
        scale(grad, a, out=grad_input)
    if np.count_nonzero(exact):
        grad_input[:, exact], grad_weight[exact], grad_bias[exact] = exact_gradients(
            grad[:, exact], columns(cache, exact)
        )
    if weight is not None:
        grad_weight, grad_bias = grad_weight.astype(weight.dtype), grad_bias.astype(weight.dtype)
    if not input_grad:
        return None, grad_weight, grad_bias
    return grad_input.astype(dtype, copy=False), grad_weight, grad_bias


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
    mean = _averaged(running_mean, statistics.mean, momentum)
    return mean, _averaged(running_var, statistics.unbiased_var, momentum)


def _averaged(old: np.ndarray, new: np.ndarray, momentum: float) -> np.ndarray:
    average = np.multiply(old, 1 - momentum, dtype=np.float64)
    average += momentum * new
    return average.astype(old.dtype)


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
