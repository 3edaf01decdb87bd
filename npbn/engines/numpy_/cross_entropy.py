"""Softmax cross-entropy over logits (N, C, P): C classes, and M = N · P terms in all.

Logits are C-contiguous, float32 or float64. Intermediate results are float64.
The caller ignores floating-point errors.
"""

import numpy as np


def cross_entropy_forward(
    logits: np.ndarray,
    target: np.ndarray,
    ignore_index: int,
    class_weight: np.ndarray,
    label_smoothing: float,
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, float]:
    """Return the terms of the loss, and what their gradient needs.

    Parameters
    ----------
    logits : ndarray, shape (N, C, P)
    target : ndarray, shape (M,), int64
    ignore_index : int
    class_weight : ndarray, shape (C,), float64
    label_smoothing : float

    Returns
    -------
    losses : ndarray, shape (M,), float64
        0 where the target is ignored.
    loss : float
        Σ losses.
    term_weight : ndarray, shape (M,), float64
        class_weight[target], 0 where the target is ignored.
    probabilities : ndarray, shape (M, C), float64
        softmax of the logits. In memory the terms are columns, so that loops are long; with rows
        they would have the length C.
    total_weight : float
        Σ term_weight.
    """
    classes = logits.shape[1]
    terms = logits.swapaxes(0, 1).reshape(classes, len(target))
    terms = np.ascontiguousarray(terms, np.float64)
    counted = target != ignore_index
    index = target * counted
    term_weight = counted * class_weight[index]

    shifted = terms - np.maximum.reduce(terms, axis=0)
    exponentials = np.exp(shifted)
    total = np.add.reduce(exponentials, axis=0)
    log_total = np.log(total)
    losses = log_total - shifted[index, np.arange(len(index))]
    losses *= term_weight
    if label_smoothing:
        uniform = class_weight @ (log_total - shifted) / classes
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    losses[~counted] = 0.0  # ignored terms that are NaN or infinite too
    sums = float(np.add.reduce(losses)), float(np.add.reduce(term_weight))
    return losses, sums[0], term_weight, (exponentials / total).T, sums[1]


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
    """Write the gradient of Σ factor · losses with respect to the logits into `grad`, (N, C, P).

    `factor`, float64, has shape (M,), or (1,) if it is the same for all terms; the other arguments
    are those of :func:`cross_entropy_forward` and its results.
    """
    samples, classes, positions = grad.shape
    counted = target != ignore_index
    index = target * counted
    scaled = (1 - label_smoothing) * term_weight
    scaled *= factor
    p = probabilities.T
    terms = p * scaled
    terms[index, np.arange(len(index))] -= scaled
    if label_smoothing:
        uniform = p * class_weight.sum() - class_weight[:, None]
        terms += factor * (label_smoothing / classes * uniform)
    if np.count_nonzero(counted) < len(target):
        terms[:, ~counted] = 0.0
    grad[...] = terms.reshape(classes, samples, positions).swapaxes(0, 1)
