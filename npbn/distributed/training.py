"""A step of training, and evaluation, over all ranks."""

import copy
from typing import Any

import numpy as np

from npbn.distributed.data_parallel import DataParallel
from npbn.distributed.mpi import communicator
from npbn.errors import DistributedError
from npbn.layers import CrossEntropyLoss, Module, MSELoss
from npbn.optim import SGD
from npbn.training import Batches, Criterion, Evaluation, MeanLoss, by_class, denominator


def train_step(
    net: DataParallel,
    x: np.ndarray,
    target: np.ndarray,
    criterion: CrossEntropyLoss | MSELoss,
    optimizer: SGD,
) -> tuple[float, np.ndarray]:
    """Take one step of training on this rank's shard of a batch.

    Returns
    -------
    loss : float
        Of the whole batch, before the step; the same on every rank.
    logits : ndarray
        Of this rank's shard.
    """
    optimizer.zero_grad()
    logits = net(x)
    criterion(logits, target)
    net.backward(criterion.backward(), input_grad=False, criterion=criterion)
    optimizer.step()
    return net.loss, logits


def train_epoch(
    net: DataParallel,
    loader: Batches,
    criterion: CrossEntropyLoss | MSELoss,
    optimizer: SGD,
) -> float:
    """Train on this rank's shard of every batch; return the mean loss over all ranks.

    :func:`npbn.train_epoch` of the whole batches; the loader is a
    :class:`npbn.distributed.DataLoader`, say.
    """
    mean = MeanLoss(criterion)
    net.train()
    for x, target in loader:
        loss, _ = train_step(net, x, target, criterion, optimizer)
        mean.add(loss, net.denominator, 1)  # this rank may have none of its samples
    return mean.value


def evaluate(
    net: Module,
    loader: Batches,
    comm: Any = None,
    criterion: Criterion | None = None,
    *,
    train_mode: bool = False,
) -> Evaluation:
    """Return loss and accuracy over the samples of all ranks, on every rank.

    :func:`npbn.evaluate`'s result for the whole batches; the network is left as it was.

    Parameters
    ----------
    net : Module
        The same on all ranks.
    loader : iterable of (x, target)
        This rank's shards: of :class:`npbn.distributed.DataLoader`, say. The same number on each
        rank; empty ones count for nothing.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.
    criterion, train_mode
        :func:`npbn.evaluate`'s. In train mode a batch is that of all ranks if BatchNorm is
        synchronised, else the rank's shard.

    Raises
    ------
    DataError
        If the loaders give no sample.
    DistributedError
        If the loaders give different numbers of batches, or a rank failed.

    Notes
    -----
    Two gathers, of 8 · (1 + 2) bytes a rank and of 8 · (1 + 3 + 2 classes).
    """
    comm = communicator(comm)
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)
    mean, tallies = MeanLoss(criterion), []
    for x, target in loader:
        logits = forward(x)
        tallies.append(np.concatenate(by_class(logits, target)))
        if len(target):
            mean.add(criterion(logits, target), denominator(criterion, target), len(target))
    classes = len(tallies[0]) // 2 if tallies else 0
    sizes = np.array([[len(tallies), classes]], np.float64)
    mine = np.array([mean.total, mean.weight, mean.samples, *np.ravel(np.sum(tallies, axis=0))])
    everyone = mine[None]
    if comm.size > 1:
        sizes = comm.allgather(sizes[0], "evaluate")
        if (sizes != sizes[0]).any():
            raise DistributedError(
                "evaluate: expected as many batches (and classes) on each rank, got "
                + ", ".join(f"{count:g} ({classes:g})" for count, classes in sizes)
            )
        everyone = comm.allgather(mine, "evaluate")
    with np.errstate(all="ignore"):
        mean.total, mean.weight, mean.samples, *rest = everyone.sum(axis=0).tolist()
    loss = mean.value
    right, number = np.array(rest, np.int64).reshape(2, classes)
    return Evaluation(loss, right, number)
