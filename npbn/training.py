"""Training for an epoch, and evaluation."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from npbn.arguments import check_bool
from npbn.errors import DataError, ShapeError
from npbn.layers import CrossEntropyLoss, Module, MSELoss
from npbn.layers.rollback import restoring
from npbn.optim import SGD
from npbn.ranks import of_one_process

__all__ = ["Evaluation", "evaluate", "train_epoch", "train_step"]

Batches = Iterable[tuple[np.ndarray, ...]]  # of (x, target)
Criterion = Callable[[np.ndarray, np.ndarray], float]
Loss = CrossEntropyLoss[float] | MSELoss[float]


class MeanLoss:
    """The loss over several batches, as if they were one.

    The means of the batches are averaged, each weighted by what it was divided by: samples,
    elements, or the class weights of the targets that are not ignored. Sums are added.

    Parameters
    ----------
    criterion : callable
        A loss of npbn's or torch's; any other callable is taken for a mean over samples.

    Raises
    ------
    ValueError
        If its reduction is 'none'.
    """

    def __init__(self, criterion: Any):
        reduction = getattr(criterion, "reduction", "mean")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"expected a criterion that reduces by mean or sum, got {reduction!r}")
        self._adds_up = reduction == "sum"
        self.total, self.weight, self.samples = 0.0, 0.0, 0

    def add(self, loss: float, weight: float, samples: int) -> None:
        """Add a batch: its loss, what that was divided by if it is a mean, and its samples."""
        if self._adds_up:
            weight = 1.0
        if weight:
            self.total += float(loss) * float(weight)
            self.weight += float(weight)
        self.samples += samples

    @property
    def value(self) -> float:
        """The mean of all batches so far; NaN if no term counted. DataError without samples."""
        if self.samples == 0:
            raise DataError(
                "expected at least one batch, got none: the data set is empty, or smaller than one "
                "batch with drop_last=True"
            )
        if self._adds_up:
            return self.total
        return self.total / self.weight if self.weight else math.nan


def denominator(criterion: Any, target: np.ndarray) -> float:
    """Return what the criterion's latest mean, for this target, was divided by."""
    return float(getattr(criterion, "denominator", len(target)))


def train_step(
    net: Module, x: np.ndarray, target: np.ndarray, criterion: Loss, optimizer: SGD
) -> tuple[float, np.ndarray]:
    """Take one step of training on one batch.

    Parameters
    ----------
    net : Module
        In the mode that it is in.
    x : ndarray
        Input of the network.
    target : ndarray
        What the criterion compares the output with.
    criterion : CrossEntropyLoss or MSELoss
        With reduction 'mean' or 'sum'.
    optimizer : SGD
        It has the parameters of the network.

    Returns
    -------
    loss : float
        Before the step.
    logits : ndarray
        Output of the network, before the step.

    Raises
    ------
    ShapeError, DtypeError, BatchSizeError, DataError
        If network or criterion refuse `x` or `target`. Parameters, gradients and running
        statistics have not been changed then.

    Examples
    --------
    >>> from npbn import MLP
    >>> net, criterion = MLP(4, 3, 2, rng=np.random.default_rng(0)), CrossEntropyLoss()
    >>> x, target = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    >>> loss, logits = train_step(net, x, target, criterion, SGD(net.parameters(), lr=0.1))
    >>> logits.shape
    (4, 2)
    """
    loss, logits, grad = restoring(loss_and_gradient, net, x, target, criterion)
    optimizer.zero_grad()
    net.backward(grad, input_grad=False)
    optimizer.step()
    return loss, logits


def loss_and_gradient(
    net: Module, x: np.ndarray, target: np.ndarray, criterion: Loss
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the loss, the output of the network, and the gradient with respect to the output."""
    logits = net(x)
    loss = criterion(logits, target)
    return loss, logits, criterion.backward()


def train_epoch(net: Module, loader: Batches, criterion: Loss, optimizer: SGD) -> float:
    """Train on every batch of the loader, in training mode.

    Parameters
    ----------
    net : Module
        The network; it is in training mode afterwards.
    loader : iterable of (x, target)
        For instance a :class:`npbn.DataLoader`, or one wrapped in a progress bar.
    criterion : CrossEntropyLoss or MSELoss
        With reduction 'mean' or 'sum'.
    optimizer : SGD
        It has the parameters of the network.

    Returns
    -------
    float
        The criterion's mean over all samples, each batch by its loss before the step; what class
        weights and ignored targets leave out does not count. With reduction 'sum' the sum.

    Raises
    ------
    DataError
        If the loader gives no sample.
    DistributedError
        If the loader gives the shards of a rank, or the network is ``DataParallel``: use
        :func:`npbn.distributed.train_epoch`.
    BatchSizeError
        If BatchNorm gets a last batch of one sample; ``DataLoader(drop_last=True)`` leaves it out.
    ValueError
        If the criterion's reduction is 'none'.

    Examples
    --------
    >>> from npbn import MLP, ArrayDataset, DataLoader
    >>> dataset = ArrayDataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> net, loader = MLP(4, 3, 2), DataLoader(dataset, batch_size=2)
    >>> loss = train_epoch(net, loader, CrossEntropyLoss(), SGD(net.parameters(), lr=0.1))
    """
    of_one_process("train_epoch", loader, net)
    mean = MeanLoss(criterion)
    net.train()
    for x, target in loader:
        loss, _ = train_step(net, x, target, criterion, optimizer)
        mean.add(loss, denominator(criterion, target), len(target))
    return mean.value


class Evaluation(NamedTuple):
    """What :func:`evaluate` returns.

    Parameters
    ----------
    loss : float
        The criterion's mean over all samples; NaN if no target counts.
    correct, total : ndarray, shape (classes,), int64
        Samples of each class: those with the right prediction, and all.

    Examples
    --------
    >>> Evaluation(0.3, np.array([8, 9]), np.array([10, 10])).accuracy
    0.85
    """

    loss: float
    correct: np.ndarray
    total: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of the samples with the right prediction; NaN without samples."""
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
        From (x, target) to the logits (N, classes), the loss, and what that was divided by.
    loader : iterable of (x, target)
    criterion : callable
    """
    of_one_process("evaluate", loader)
    mean = MeanLoss(criterion)
    correct = total = np.zeros(1, np.int64)
    for x, target in loader:
        logits, loss, weight = run(x, target)
        right, count = by_class(logits, target)
        correct, total = correct + right, total + count
        mean.add(loss, weight, len(target))
    return Evaluation(mean.value, correct, total)


def by_class(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples of each class have the right prediction, and how many there are."""
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
    """Return loss and accuracy, overall and per class; the network is not changed.

    Parameters
    ----------
    net : Module
        Returns logits (N, classes).
    loader : iterable of (x, target)
        For instance a :class:`npbn.DataLoader`.
    criterion : callable, optional
        Mean loss of a batch; cross-entropy by default. With npbn's losses the result is that of
        all samples in one batch, with reduction 'sum' the sum.
    train_mode : bool
        True evaluates in training mode: BatchNorm normalises each batch by its own statistics, so
        that the result for a sample depends on the others. The running statistics are not changed.

    Returns
    -------
    Evaluation
        ``loss``, ``correct`` and ``total`` per class, ``accuracy``.

    Raises
    ------
    DataError
        If the loader gives no sample.
    DistributedError
        If the loader gives the shards of a rank: use :func:`npbn.distributed.evaluate`.
    BatchSizeError
        In training mode, if BatchNorm gets a last batch of one sample;
        ``DataLoader(drop_last=True)`` leaves it out.
    ValueError
        If `train_mode` is not a bool, or the criterion's reduction is 'none'.

    Examples
    --------
    >>> from npbn import Identity
    >>> logits, target = np.array([[2.0, 1.0], [3.0, 0.0]]), np.array([0, 1])
    >>> result = evaluate(Identity(), [(logits, target)])
    >>> result.accuracy, result.total
    (0.5, array([1, 1]))
    """
    check_bool("evaluate", "train_mode", train_mode)
    # Both keep state between their calls; the caller's are not changed.
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)

    def run(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, float]:
        logits = forward(x)
        loss = criterion(logits, target)
        return logits, loss, denominator(criterion, target)

    return tally(run, loader, criterion)
