"""Training for an epoch, and evaluation."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from npbn.errors import DataError, ShapeError
from npbn.layers import CrossEntropyLoss, Module
from npbn.optim import SGD
from npbn.ranks import of_one_process

__all__ = ["Evaluation", "evaluate", "train_epoch", "train_step"]

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
Criterion = Callable[[np.ndarray, np.ndarray], float]


class MeanLoss:
    """A criterion's own mean over several batches, as if they were one; of a sum, the sum.

    The mean of a batch counts by what it was divided by: samples, elements, or the weights of the
    targets that are not ignored. A batch without any counts for nothing.

    Parameters
    ----------
    criterion : callable
        Other callables than npbn's losses and torch's are taken as means over samples.
    """

    def __init__(self, criterion: Any):
        reduction = getattr(criterion, "reduction", "mean")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"expected a criterion that reduces by mean or sum, got {reduction!r}")
        self._adds_up = reduction == "sum"
        self.total, self.weight, self.samples = 0.0, 0.0, 0

    def add(self, loss: float, weight: float, samples: int) -> None:
        """Add a batch: its loss, what that was divided by if a mean, and how many samples."""
        if self._adds_up:
            weight = 1.0
        if weight:
            self.total += float(loss) * float(weight)
            self.weight += float(weight)
        self.samples += samples

    @property
    def value(self) -> float:
        """The mean of all so far; NaN of no terms. DataError if there were no samples."""
        some(self.samples)
        if self._adds_up:
            return self.total
        return self.total / self.weight if self.weight else math.nan


def denominator(criterion: Any, target: np.ndarray) -> float:
    """Return what the criterion's latest mean, of this target, was divided by."""
    return getattr(criterion, "denominator", len(target))


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
    """Train on every batch of the loader, in training mode; return the mean loss.

    It is the criterion's own mean over all that was seen, whatever the batches: with class weights
    and ignored targets too (:class:`MeanLoss`).

    Parameters
    ----------
    net : Module
    loader : iterable of (x, target)
        A :class:`~npbn.data.DataLoader`, say, or one wrapped in a progress bar.
    criterion : CrossEntropyLoss or MSELoss
        Of reduction 'mean', or 'sum', which is added up.
    optimizer : SGD

    Raises
    ------
    DataError
        If the loader gives no sample.
    DistributedError
        If the loader gives the shards of a rank, or the network is ``DataParallel``: there
        is :func:`npbn.distributed.train_epoch`, and so it is with :func:`evaluate`.
    BatchSizeError
        If BatchNorm meets a last batch of one; ``DataLoader(drop_last=True)`` leaves it out.
    """
    of_one_process("train_epoch", loader, net)
    mean = MeanLoss(criterion)
    net.train()
    for x, target in loader:
        loss, _ = train_step(net, x, target, criterion, optimizer)
        mean.add(loss, denominator(criterion, target), len(target))
    return mean.value


class Evaluation(NamedTuple):
    """What :func:`evaluate` found.

    Attributes
    ----------
    loss : float
        The criterion's own mean over the samples; NaN if no target counts.
    correct, total : ndarray, shape (classes,), int64
        Samples of each class: those the network got right, and all.
    """

    loss: float
    correct: np.ndarray
    total: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of all samples that the network got right; NaN of none."""
        total = int(self.total.sum())
        return int(self.correct.sum()) / total if total else math.nan


def tally(
    run: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float, float]],
    loader: Batches,
    criterion: Any,
) -> Evaluation:
    """Run every batch and add up the results.

    Parameters
    ----------
    run : callable
        (x, target) to the logits (N, classes), the loss, and what that was divided by.
    loader : iterable of (x, target)
    criterion : callable
    """
    of_one_process("evaluate", loader)
    mean, correct, total = MeanLoss(criterion), 0, 0
    for x, target in loader:
        logits, loss, weight = run(x, target)
        hits, all_ = by_class(logits, target)
        correct, total = correct + hits, total + all_
        mean.add(loss, weight, len(target))
    return Evaluation(mean.value, correct, total)


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
        Mean loss of a batch; cross-entropy by default. With npbn's own losses the result is that
        of the whole set in one batch (:class:`MeanLoss`), a sum is added up.
    train_mode : bool
        True evaluates as the network trains: BatchNorm then normalises every batch by the
        batch's own statistics, so that a sample's result depends on its neighbours. The
        running statistics are not touched either way.

    Raises
    ------
    DataError
        If the loader gives no sample.
    BatchSizeError
        In train mode, if BatchNorm meets a last batch of one;
        ``DataLoader(drop_last=True)`` leaves it out.
    """
    # Both keep state between their calls; the caller's stays as it is.
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)

    def run(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, float]:
        logits = forward(x)
        loss = criterion(logits, target)
        return logits, loss, denominator(criterion, target)

    return tally(run, loader, criterion)


def some(count: int) -> int:
    """Return `count`, the number of samples seen, unless it is none."""
    if count == 0:
        raise DataError(
            "expected at least one batch, got none: the data set is empty, or smaller than one "
            "batch with drop_last=True"
        )
    return count
