"""A step of training, and evaluation, over all ranks."""

import copy
from math import nan
from typing import Any

import numpy as np

from npbn.distributed.data_parallel import DataParallel
from npbn.distributed.mpi import communicator
from npbn.errors import DistributedError
from npbn.layers import CrossEntropyLoss, Module
from npbn.layers.rollback import restoring
from npbn.optim import SGD
from npbn.training import (
    Batches,
    Criterion,
    Evaluation,
    Loss,
    MeanLoss,
    by_class,
    check_parameters,
    loss_and_gradient,
    sum_and_weight,
    sum_of_terms,
)


def train_step(
    net: DataParallel,
    x: np.ndarray,
    target: np.ndarray,
    criterion: Loss,
    optimizer: SGD,
) -> tuple[float, np.ndarray]:
    """Take one step of training on this rank's shard of a batch.

    Parameters
    ----------
    net : DataParallel
        In the mode that it is in.
    x, target : ndarray
        This rank's shard, which may be empty.
    criterion : CrossEntropyLoss or MSELoss
        With reduction 'mean' or 'sum'.
    optimizer : SGD
        It has the parameters of the network, and the same options on all ranks.

    Returns
    -------
    loss : float
        Of the whole batch, before the step; the same on every rank.
    logits : ndarray
        Of this rank's shard.

    Raises
    ------
    ShapeError, DtypeError, BatchSizeError, DataError
        If network or criterion refuse `x` or `target`. Parameters, gradients and running
        statistics of this rank have not been changed then.
    ValueError
        If a parameter is read-only; nothing has been changed then.
    DistributedError
        If loss or gradients are not finite, or another rank failed.
    """
    check_parameters(optimizer)
    _, logits, grad = restoring(loss_and_gradient, net, x, target, criterion)
    optimizer.zero_grad()
    net.backward(grad, input_grad=False, criterion=criterion)
    optimizer.step()
    return float(nan if net.loss is None else net.loss), logits


def train_epoch(
    net: DataParallel,
    loader: Batches,
    criterion: Loss,
    optimizer: SGD,
) -> float:
    """Train on this rank's shard of every batch, in training mode.

    Parameters
    ----------
    net : DataParallel
        The network; it is in training mode afterwards.
    loader : iterable of (x, target)
        This rank's shards, for instance a :class:`npbn.distributed.DataLoader`.
    criterion : CrossEntropyLoss or MSELoss
        With reduction 'mean' or 'sum'.
    optimizer : SGD
        It has the parameters of the network, and the same options on all ranks.

    Returns
    -------
    float
        The loss over all ranks, as :func:`npbn.train_epoch` returns it for the whole batches.

    Raises
    ------
    DataError
        If the loader gives no batch.
    DistributedError
        As :func:`train_step`.
    """
    mean = MeanLoss(criterion)
    net.train()
    for x, target in loader:
        loss, logits = train_step(net, x, target, criterion, optimizer)
        total = sum_of_terms(criterion, loss, net.denominator, logits, target)
        mean.add(total, net.denominator, 1)  # this rank may have none of its samples
    return mean.value


def evaluate(
    net: Module,
    loader: Batches,
    comm: Any = None,
    criterion: Criterion | None = None,
    *,
    train_mode: bool = False,
) -> Evaluation:
    """Return loss and accuracy over the samples of all ranks; the network is not changed.

    Parameters
    ----------
    net : Module
        The same on all ranks.
    loader : iterable of (x, target)
        This rank's shards, for instance a :class:`npbn.distributed.DataLoader`. Their number has
        to be the same on all ranks; shards may be empty.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.
    criterion : callable, optional
        Mean loss of a batch; cross-entropy by default.
    train_mode : bool
        True evaluates in training mode. BatchNorm then normalises by the whole batch if it is
        synchronised, else by the rank's shard.

    Returns
    -------
    Evaluation
        That of :func:`npbn.evaluate` for the whole batches, on every rank.

    Raises
    ------
    DataError
        If the loaders give no sample.
    DistributedError
        If the loaders give different numbers of batches, or a rank failed.

    Notes
    -----
    It takes two gathers, of 8 · (1 + 2) and 8 · (1 + 3 + 2 classes) bytes from each rank.
    """
    comm = communicator(comm)
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)
    mean, tallies = MeanLoss(criterion), []
    for x, target in loader:
        logits = forward(x)
        tallies.append(np.concatenate(by_class(logits, target)))
        if len(target):
            loss = criterion(logits, target)
            mean.add(*sum_and_weight(criterion, loss, logits, target), len(target))
    classes = len(tallies[0]) // 2 if tallies else 0
    sizes = np.array([[len(tallies), classes]], np.float64)
    mine = np.array([mean.total, mean.weight, mean.samples, *np.ravel(np.sum(tallies, axis=0))])
    everyone = mine[None]
    if comm.size > 1:
        sizes = comm.allgather(sizes[0], "evaluate")
        if (sizes != sizes[0]).any():
            raise DistributedError(
                "evaluate: expected the same number of batches (and classes) on each rank, got "
                + ", ".join(f"{count:g} ({classes:g})" for count, classes in sizes)
            )
        everyone = comm.allgather(mine, "evaluate")
    with np.errstate(all="ignore"):
        mean.total, mean.weight, mean.samples, *rest = everyone.sum(axis=0).tolist()
    loss = mean.value
    right, number = np.array(rest, np.int64).reshape(2, classes)
    return Evaluation(loss, right, number)
