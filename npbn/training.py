"""Training for an epoch, and evaluation."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from npbn.arguments import check_bool
from npbn.errors import DataError, DtypeError, ShapeError
from npbn.layers import CrossEntropyLoss, Module, MSELoss
from npbn.layers.parameter import check_writeable
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

    def add(self, total: float, weight: float, samples: int) -> None:
        """Add a batch: the sum of its terms, what a mean divides that by, and its samples."""
        self.total += total
        self.weight += weight
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


def sum_and_weight(
    criterion: Any, loss: float, logits: np.ndarray, target: np.ndarray
) -> tuple[float, float]:
    """Return the sum of the terms of the criterion's latest loss, and what a mean divides it by."""
    weight = float(getattr(criterion, "denominator", len(target)))
    return sum_of_terms(criterion, loss, weight, logits, target), weight


def sum_of_terms(criterion: Any, loss: float, weight: float, logits: Any, target: Any) -> float:
    """Return the sum of the terms of a loss that was divided by `weight` if it is a mean.

    That of a weight of 0 is NaN, but with label smoothing has terms: they belong to the mean over
    several batches. They are computed again.
    """
    if getattr(criterion, "reduction", "mean") == "sum":
        return float(loss)
    if weight:
        return float(loss) * weight
    if len(target) == 0:
        return 0.0
    summed = copy.copy(criterion)
    summed.reduction = "sum"
    return float(summed(logits, target))


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
    ValueError
        If a parameter is read-only; nothing has been changed then.
    DistributedError
        If the network, or a layer of it, is one of several ranks: use
        :func:`npbn.distributed.train_step`.

    Examples
    --------
    >>> from npbn import MLP
    >>> net, criterion = MLP(4, 3, 2, rng=np.random.default_rng(0)), CrossEntropyLoss()
    >>> x, target = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    >>> loss, logits = train_step(net, x, target, criterion, SGD(net.parameters(), lr=0.1))
    >>> logits.shape
    (4, 2)
    """
    of_one_process("train_step", None, net)
    return _step(net, x, target, criterion, optimizer)


def _step(
    net: Module, x: np.ndarray, target: np.ndarray, criterion: Loss, optimizer: SGD
) -> tuple[float, np.ndarray]:
    check_parameters(optimizer)
    loss, logits, grad = restoring(loss_and_gradient, net, x, target, criterion)
    optimizer.zero_grad()
    net.backward(grad, input_grad=False)
    optimizer.step()
    return loss, logits


def check_parameters(optimizer: SGD) -> None:
    """Raise ValueError if a parameter that a step is to change is read-only."""
    for group in optimizer.param_groups:
        check_writeable("train_step", *(p for p in group["params"] if p.requires_grad))


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
        If the loader gives the shards of a rank, or the network, or a layer of it, is one of
        several ranks: use :func:`npbn.distributed.train_epoch`.
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
    mean = MeanLoss(criterion)
    of_one_process("train_epoch", loader, net)
    net.train()
    for x, target in loader:
        loss, logits = _step(net, x, target, criterion, optimizer)
        mean.add(*sum_and_weight(criterion, loss, logits, target), len(target))
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
        From (x, target) to the logits (N, classes), the sum of the terms of the loss, and what a
        mean divides that by.
    loader : iterable of (x, target)
    criterion : callable
    """
    mean = MeanLoss(criterion)
    correct = total = np.zeros(1, np.int64)
    for x, target in loader:
        logits, total_loss, weight = run(x, target)
        right, count = by_class(logits, target)
        correct, total = correct + right, total + count
        mean.add(total_loss, weight, len(target))
    return Evaluation(mean.value, correct, total)


def by_class(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples of each class have the right prediction, and how many there are."""
    target = np.asarray(target)
    if logits.ndim != 2:
        raise ShapeError(f"evaluate: expected logits of shape (N, classes), got {logits.shape}")
    if target.shape != logits.shape[:1]:
        raise ShapeError(
            f"evaluate: expected targets of shape {logits.shape[:1]} for logits of shape "
            f"{logits.shape}, got {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise DtypeError(f"evaluate: expected integer class indices as target, got {target.dtype}")
    target = target.astype(np.int64)  # np.bincount takes no uint64
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
        If the loader gives the shards of a rank, or the network, or a layer of it, is one of
        several ranks: use :func:`npbn.distributed.evaluate`.
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
    of_one_process("evaluate", loader, net)
    # Both keep state between their calls; the caller's are not changed.
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)

    def run(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, float]:
        logits = forward(x)
        loss = criterion(logits, target)
        return logits, *sum_and_weight(criterion, loss, logits, target)

    return tally(run, loader, criterion)
