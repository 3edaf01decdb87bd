"""Softmax cross-entropy, compiled; the NumPy engine documents it."""

import numpy as np

from npbn.engines.numba_.compiling import any_order, compiled
from npbn.engines.numba_.ranges import large_of_slow, over_ranges


def cross_entropy_forward(
    logits: np.ndarray,
    target: np.ndarray,
    ignore_index: int,
    class_weight: np.ndarray,
    label_smoothing: float,
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, float]:
    """Return losses, their sum, term_weight, probabilities, and the sum of term_weight."""
    count = len(target)
    losses, term_weight = np.empty(count), np.empty(count)
    probabilities = np.empty((count, logits.shape[1]))
    arguments = logits, target, ignore_index, class_weight, label_smoothing
    _over_terms(_forward, logits, count, arguments, (losses, term_weight, probabilities))
    return losses, _sum(losses), term_weight, probabilities, _sum(term_weight)


def cross_entropy_backward(
    factor: np.ndarray,
    target: np.ndarray,
    ignore_index: int,
    class_weight: np.ndarray,
    label_smoothing: float,
    term_weight: np.ndarray,
    probabilities: np.ndarray,
    grad: np.ndarray,
) -> None:
    """Write the gradient of Σ factor · losses with respect to the logits into `grad`."""
    by_rows = np.ascontiguousarray(probabilities)  # the NumPy engine returns them by columns
    arguments = factor, target, ignore_index, class_weight, label_smoothing, term_weight, by_rows
    _over_terms(_backward, grad, len(target), arguments, (grad,))


def _over_terms(loops, logits, count, arguments, results):
    over_ranges(large_of_slow(logits), loops, count, arguments, results)


@any_order
def _sum(values):
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total


@compiled
def _forward(
    logits,
    target,
    ignore_index,
    class_weight,
    smoothing,
    first,
    last,
    losses,
    term_weight,
    probabilities,
):
    _, classes, positions = logits.shape
    for m in range(first, last):
        row, t = logits[m // positions, :, m % positions], target[m]
        largest, log_total = _softmax(row, probabilities[m])
        losses[m], term_weight[m] = 0.0, 0.0
        if t != ignore_index:
            term_weight[m] = class_weight[t]
            losses[m] = term_weight[m] * (log_total - (row[t] - largest))
            if smoothing != 0:
                uniform = 0.0
                for c in range(classes):
                    uniform += class_weight[c] * (log_total - (row[c] - largest))
                losses[m] = (1 - smoothing) * losses[m] + smoothing * (uniform / classes)


@compiled
def _softmax(row, probabilities):
    """Write the softmax of a row; return its largest value, in float64, and log Σ exp after it."""
    largest = np.float64(row[0])
    for c in range(len(row)):  # with a NaN the sum is NaN in any case
        if row[c] > largest:
            largest = np.float64(row[c])
    total = 0.0
    for c in range(len(row)):
        exponential = np.exp(row[c] - largest)
        probabilities[c] = exponential
        total += exponential
    for c in range(len(row)):
        probabilities[c] /= total
    return largest, np.log(total)


@compiled
def _backward(
    factor,
    target,
    ignore_index,
    class_weight,
    smoothing,
    term_weight,
    probabilities,
    first,
    last,
    grad,
):
    _, classes, positions = grad.shape
    all_weights, uniform = class_weight.sum(), smoothing / classes
    for m in range(first, last):
        out, p, t = grad[m // positions, :, m % positions], probabilities[m], target[m]
        if t == ignore_index:
            out[:] = 0.0
            continue
        upstream = factor[m % len(factor)]
        scaled = (1 - smoothing) * term_weight[m] * upstream
        for c in range(classes):
            term = p[c] * scaled
            if c == t:
                term -= scaled
            if smoothing != 0:
                term += upstream * (uniform * (p[c] * all_weights - class_weight[c]))
            out[c] = term
