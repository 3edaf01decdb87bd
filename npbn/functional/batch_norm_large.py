"""Batch normalisation of large batches: in the input's dtype, with an exact road beside it.

The mean is split: a part `shift` in the input's dtype, which is subtracted from x without loss
where it matters (Sterbenz), and a remainder `offset`, which goes into the bias::

    y = (x − shift) · a + (bias − offset · a),    a = weight / std, rounded

Where |mean · a| is small the shift is 0 and one pass is saved. The (C,) statistics are float64,
the (N, C, ...) arrays the input's dtype. Checks of (C,) vectors flag the channels for which that
would lose digits; they alone take the slow road of :mod:`npbn.functional.batch_norm_exact`.
"""

import numpy as np

from npbn.functional.batch_measure import measure_batch
from npbn.functional.batch_norm_exact import (
    HUGE,
    MISSED,
    MOVED,
    BatchNormCache,
    columns,
    exact_gradients,
    exact_output,
    gradients_need_exact,
    in_range,
    ordinary_gradients,
    output_needs_exact,
    split,
    within,
)
from npbn.functional.passes import (
    centred_sums,
    combine,
    per_channel,
    scale,
    scale_shift,
    subtract,
    zeros,
)
from npbn.functional.tuning import FEW


def large_forward(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    training: bool,
    eps: float,
) -> tuple[np.ndarray, BatchNormCache]:
    """Return the output and the cache; see ``batch_norm_forward``."""
    y, channels = np.empty_like(x), x.shape[1]
    if training:
        statistics, shift, offset, exact = measure_batch(x, weight, y)
        var = statistics.var
    else:
        statistics, shift, exact = None, zeros(channels, x.dtype), zeros(channels, np.bool_)
        offset, var = running_mean.astype(np.float64), running_var.astype(np.float64)
    std = np.sqrt(var + eps)
    a = ((1.0 if weight is None else weight) / std).astype(x.dtype, copy=False)
    if training and np.count_nonzero(var) < channels:
        a[var == 0] = 0  # so that a constant channel gives exactly the bias
    moved, centred = offset * a, np.count_nonzero(shift) > 0
    ordinary = in_range(a, std)
    constant = not training and np.count_nonzero(var) < channels  # the same, if x is the mean
    alone = None  # a few channels of an evaluation that need to be centred
    if not centred and not (ordinary and within(moved, MOVED) and not constant):
        alone = np.flatnonzero((np.abs(moved) > MOVED) | (var == 0))
        if training or len(alone) > channels // FEW or not (ordinary and within(offset, HUGE)):
            alone = None
            shift, offset = split(shift, offset)
            subtract(x, shift, out=y)
            moved, centred = offset * a, True
    if centred and not (ordinary and within(moved, MOVED) and within(shift, HUGE)):
        exact = exact | output_needs_exact(a, moved, std, shift)
    c = -moved if bias is None else bias - moved
    scale_shift(y if centred else x, a, c, out=y)
    if alone is not None:
        few = x.take(alone, axis=1)
        few -= per_channel(running_mean[alone], x.ndim)
        few *= per_channel(a[alone], x.ndim)
        y[:, alone] = few if bias is None else few + per_channel(bias[alone], x.ndim)
    cache = BatchNormCache(x, shift, offset, std, weight, exact, statistics)
    if np.count_nonzero(exact):
        y[:, exact] = exact_output(columns(cache, exact), bias if bias is None else bias[exact])
    return y, cache


def large_backward(
    grad: np.ndarray, cache: BatchNormCache, input_grad: bool
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias; see ``batch_norm_backward``."""
    x, shift, offset, std, weight, exact, statistics = cache
    count = 0 if statistics is None else statistics.count
    grad_input = np.empty_like(x)
    missed = offset / std
    some_constant = count and np.count_nonzero(statistics.m2) < len(std)
    if some_constant:
        missed[statistics.m2 == 0] = 0  # x̂ is 0 there, whatever the shift
    if not within(missed, MISSED):
        shift, offset = split(shift, offset)
        missed = offset / std
    grad_bias, grad_weight, centred = centred_sums(x, shift, grad_input, grad)
    grad_weight -= offset * grad_bias
    grad_weight /= std
    if some_constant:
        grad_weight[statistics.m2 == 0] = 0

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
    finite = count or np.isfinite(grad_weight).all()  # by batch, b would show it
    if not (finite and ordinary_gradients(factors, missed)):
        exact = exact | gradients_need_exact(factors, missed) | ~np.isfinite(grad_weight)
    if input_grad and count:
        combine(grad, centred, a, b, c, out=grad_input)
    elif input_grad:
        scale(grad, a, out=grad_input)
    if np.count_nonzero(exact):
        grad_input[:, exact], grad_weight[exact], grad_bias[exact] = exact_gradients(
            grad[:, exact], columns(cache, exact)
        )
    return grad_input if input_grad else None, grad_weight, grad_bias
