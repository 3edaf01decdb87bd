"""Running statistics of a whole data set that is distributed over the ranks."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from npbn.distributed.communicator import Communicator
from npbn.distributed.conversion import convert_sync_batch_norm
from npbn.distributed.data_parallel import DataParallel
from npbn.distributed.mpi import communicator
from npbn.distributed.sync_batch_norm import SyncBatchNorm, merged
from npbn.errors import ConfigError, DistributedError
from npbn.functional.statistics import BatchStatistics
from npbn.layers import Module
from npbn.layers.batch_norm import BatchNorm
from npbn.population import OneProcess, set_statistics

WHAT = "update_batch_norm"


def update_batch_norm(
    net: Module, loader: Iterable[Any], comm: Any = None, *, average_batches: bool = False
) -> None:
    """Set the running statistics of each BatchNorm to those of the data of all ranks.

    The result, on every rank, is that of :func:`npbn.update_batch_norm` for the whole batches.

    Parameters
    ----------
    net : Module
        The same on all ranks; a network in :class:`DataParallel` too.
    loader : iterable of arrays x, or of tuples (x, ...)
        This rank's shards, for instance a :class:`npbn.distributed.DataLoader`. Their number has
        to be the same on all ranks; shards may be empty.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.
    average_batches : bool
        True averages the statistics of whole batches, with BatchNorm synchronised. For
        ``GhostBatchNorm`` and ``BatchRenorm`` it averages those of the ghosts and batches of all
        ranks' shards.

    Raises
    ------
    DataError, BatchSizeError
        As :func:`npbn.update_batch_norm`, on all ranks.
    ConfigError
        With `average_batches` on several ranks, if a layer cannot be synchronised: see
        :func:`convert_sync_batch_norm`.
    DistributedError
        If the loaders give different numbers of batches, if statistics are not finite, or if a
        rank failed.
    """
    comm = communicator(comm)
    net = net.module if isinstance(net, DataParallel) else net
    twin = copy.deepcopy(net)
    if average_batches and comm.size > 1:
        try:
            twin = convert_sync_batch_norm(twin, comm)
        except ConfigError as error:
            raise ConfigError(
                f"{WHAT}: average_batches=True synchronises the layers of a copy, which failed "
                f"({error}); average_batches=False takes any layer"
            ) from error
    set_statistics(net, twin, loader, average_batches, _Ranks(comm))


class _Ranks(OneProcess):
    def __init__(self, comm: Communicator):
        self._comm = comm

    def batches(self, have_values: list[bool]) -> int:
        if self._comm.size == 1:
            return super().batches(have_values)
        counts = self._comm.allgather(np.array([len(have_values)], np.float64), WHAT)[:, 0]
        if (counts != counts[0]).any():
            raise DistributedError(
                f"{WHAT}: expected the same number of batches on each rank, got "
                + ", ".join(f"{count:g}" for count in counts)
            )
        if not have_values:
            return 0
        return int(self._comm.allgather(np.array(have_values, np.float64), WHAT).any(axis=0).sum())

    def merge(self, statistics: BatchStatistics, norm: BatchNorm) -> BatchStatistics:
        if self._comm.size == 1:
            return statistics
        if not statistics.count:  # no values, but the same number of channels
            statistics = BatchStatistics(0, np.zeros((3, norm.num_features)))
        return merged(statistics, self._comm, WHAT)

    def average(self, norm: BatchNorm) -> None:
        if self._comm.size == 1 or isinstance(norm, SyncBatchNorm):
            return
        mine = np.concatenate([[norm.num_batches_tracked], norm.running_mean, norm.running_var])
        rows = self._comm.allgather(mine.astype(np.float64), WHAT)
        counts = rows[:, 0]
        if counts.any():
            averages = np.average(rows[:, 1:], axis=0, weights=counts)
            mean, var = np.split(averages, 2)
            norm.write_running_stats(mean, var, counts.sum())
