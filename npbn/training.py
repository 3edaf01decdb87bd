"""Training for an epoch, and evaluation."""

import copy
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from npbn.errors import DataError, ShapeError
from npbn.layers import CrossEntropyLoss, Module
from npbn.optim import SGD

__all__ = ["Evaluation", "evaluate", "train_epoch", "train_step"]

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
Criterion = Callable[[np.ndarray, np.ndarray], float]


def train_step(
    net: Module, x: np.ndarray, target: np.ndarray, criterion: CrossEntropyLoss, optimizer: SGD
) -> tuple[float, np.ndarray]:
    """Take one step of training on one batch; return its loss and logits before the step."""
    optimizer.zero_grad()
    logits = net(x)
    loss = criterion(logits, target)
    net.backward(criterion.backward(), input_grad=False)
    optimizer.step()
    return loss, logits


def train_epoch(net: Module, loader: Batches, criterion: CrossEntropyLoss, optimizer: SGD) -> float:
    """Train on every batch of the loader, in training mode; return the mean loss per sample.

    Parameters
    ----------
    net : Module
    loader : iterable of (x, target)
        A :class:`~npbn.data.DataLoader`, say, or one wrapped in a progress bar.
    criterion : CrossEntropyLoss or MSELoss, its reduction 'mean'
    optimizer : SGD

    Raises
    ------
    DataError
        If the loader gives no batch.
    BatchSizeError
        If BatchNorm meets a last batch of one; ``DataLoader(drop_last=True)`` leaves it out.
    """
    net.train()
    total, count = 0.0, 0
    for x, target in loader:
        loss, _ = train_step(net, x, target, criterion, optimizer)
        total += loss * len(target)
        count += len(target)
    return total / some(count)


class Evaluation(NamedTuple):
    """What :func:`evaluate` found.

    Attributes
    ----------
    loss : float
        Mean over the samples.
    correct, total : ndarray, shape (classes,), int64
        Samples of each class: those the network got right, and all.
    """

    loss: float
    correct: np.ndarray
    total: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of all samples that the network got right."""
        return float(self.correct.sum() / self.total.sum())


def tally(
    run: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]], loader: Batches
) -> Evaluation:
    """Run every batch and add up the results.

    Parameters
    ----------
    run : callable
        (x, target) to the logits (N, classes) and the mean loss of the batch.
    loader : iterable of (x, target)
    """
    loss, count, correct, total = 0.0, 0, 0, 0
    for x, target in loader:
        logits, batch_loss = run(x, target)
        hits, all_ = by_class(logits, target)
        correct, total = correct + hits, total + all_
        loss += batch_loss * len(target)
        count += len(target)
    return Evaluation(loss / some(count), correct, total)


def by_class(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples of each class the network got right, and how many there are."""
    if logits.ndim != 2:
        raise ShapeError(f"evaluate: expected logits of shape (N, classes), got {logits.shape}")
    classes = logits.shape[1]
    hit = logits.argmax(axis=1) == target
    correct = np.bincount(target[hit], minlength=classes)
    return correct, np.bincount(target[(target >= 0) & (target < classes)], minlength=classes)


def evaluate(
    net: Module,
    loader: Batches,
    criterion: Criterion | None = None,
    *,
    train_mode: bool = False,
) -> Evaluation:
    """Return loss and accuracy, overall and per class; the network is left as it was.

    Parameters
    ----------
    net : Module
        Gives logits (N, classes).
    loader : iterable of (x, target)
    criterion : callable, optional
        Mean loss of a batch; cross-entropy by default.
    train_mode : bool
        True evaluates as the network trains: BatchNorm then normalises every batch by the
        batch's own statistics, so that a sample's result depends on its neighbours. The
        running statistics are not touched either way.

    Raises
    ------
    DataError
        If the loader gives no batch.
    BatchSizeError
        In train mode, if BatchNorm meets a last batch of one;
        ``DataLoader(drop_last=True)`` leaves it out.
    """
    # Both keep state between their calls; the caller's stays as it is.
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)

    def run(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
        logits = forward(x)
        return logits, criterion(logits, target)

    return tally(run, loader)


def some(count: int) -> int:
    """Return `count`, the number of samples seen, unless it is none."""
    if count == 0:
        raise DataError(
            "expected at least one batch, got none: the data set is empty, or smaller than one "
            "batch with drop_last=True"
        )
    return count
