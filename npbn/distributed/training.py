"""A step of training, and evaluation, over all ranks."""

import copy
from typing import Any

import numpy as np

from npbn.distributed.data_parallel import DataParallel
from npbn.distributed.mpi import communicator
from npbn.errors import DistributedError
from npbn.layers import CrossEntropyLoss, Module, MSELoss
from npbn.optim import SGD
from npbn.training import Batches, Criterion, Evaluation, by_class, some


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
    Two gathers, of 8 · (1 + 2) bytes a rank and of 8 · (1 + 3 batches + 2 classes).
    """
    comm = communicator(comm)
    forward = copy.deepcopy(net).train() if train_mode else net.predict
    criterion = CrossEntropyLoss() if criterion is None else copy.copy(criterion)
    batches, tallies = [], []
    for x, target in loader:
        logits = forward(x)
        tallies.append(np.concatenate(by_class(logits, target)))
        loss = criterion(logits, target) if len(target) else 0.0
        weight = getattr(criterion, "denominator", len(target)) if len(target) else 0.0
        batches.append((loss if weight else 0.0, weight, len(target)))
    classes = len(tallies[0]) // 2 if tallies else 0
    sizes = np.array([[len(batches), classes]], np.float64)
    mine = np.concatenate([np.ravel(batches), np.ravel(np.sum(tallies, axis=0))])
    everyone = mine[None]
    if comm.size > 1:
        sizes = comm.allgather(sizes[0], "evaluate")
        if (sizes != sizes[0]).any():
            raise DistributedError(
                "evaluate: expected as many batches (and classes) on each rank, got "
                + ", ".join(f"{count:g} ({classes:g})" for count, classes in sizes)
            )
        everyone = comm.allgather(mine, "evaluate")
    parts, rest = np.split(everyone, [3 * len(batches)], axis=1)
    losses, weights, counts = parts.reshape(comm.size, len(batches), 3).transpose(2, 0, 1)
    samples = counts.sum(axis=0)
    with np.errstate(invalid="ignore"):  # of a batch that counts for nothing
        means = (losses * weights).sum(axis=0) / weights.sum(axis=0)
        if getattr(criterion, "reduction", "mean") == "sum":
            means = losses.sum(axis=0)
        loss = np.where(samples > 0, means * samples, 0.0).sum() / some(int(samples.sum()))
    right, number = rest.sum(axis=0).astype(np.int64).reshape(2, classes)
    return Evaluation(float(loss), right, number)
