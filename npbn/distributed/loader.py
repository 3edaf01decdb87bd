"""A loader that gives each rank its shard of every batch."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from typing import Any

import numpy as np

from npbn import data
from npbn.data import ArrayDataset
from npbn.distributed.communicator import agree
from npbn.distributed.mpi import communicator
from npbn.errors import DataError


class DataLoader(data.DataLoader):
    """Iterates over a data set in batches and gives each rank its shard of them.

    The batches are those of :class:`npbn.DataLoader` in one process, in the order of rank 0. A
    batch is cut into P consecutive shards whose sizes differ by at most one; rank r gets shard r.
    Each sample is used once in an epoch, on one rank. If the last batch has fewer samples than
    there are ranks, some shards are empty.

    Parameters
    ----------
    dataset : ArrayDataset
        The whole data set, on every rank.
    batch_size : int
        Samples in the whole batch, at least one for each rank.
    shuffle : bool
        Whether each pass has a new random order.
    drop_last : bool
        Whether a smaller last batch is left out.
    rng : numpy.random.Generator, optional
        Used by `shuffle`. The order is that of rank 0: seeds may differ.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.

    Raises
    ------
    DataError
        If there are fewer samples than ranks.
    ValueError
        If `batch_size` is no integer or below the number of ranks, or `shuffle` or `drop_last` is
        no bool.
    DistributedError
        If the ranks' data sets or options differ.
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        rng: np.random.Generator | None = None,
        comm: Any = None,
    ) -> None:
        super().__init__(dataset, batch_size, shuffle, drop_last, rng)
        self.comm = communicator(comm)
        mine = np.array([len(dataset), batch_size, shuffle, drop_last], np.float64)
        first = mine.copy()
        if self.comm.size > 1:
            self.comm.broadcast(first, "DataLoader")
        same = "" if np.array_equal(mine, first) else f"{_named(mine)}, rank 0 has {_named(first)}"
        agree(self.comm, same, "DataLoader")
        if len(dataset) < self.comm.size:
            raise DataError(
                f"DataLoader: expected at least a sample for each of the {self.comm.size} ranks, "
                f"got {len(dataset)}"
            )
        if batch_size < self.comm.size:
            raise ValueError(
                f"DataLoader: expected a batch_size, over all ranks, of at least {self.comm.size}, "
                f"got {batch_size}"
            )

    def _order(self) -> np.ndarray:
        order = super()._order()
        if self.shuffle and self.comm.size > 1:
            self.comm.broadcast(order, "order of the samples")
        return order

    def _part(self, batch: np.ndarray) -> np.ndarray:
        return np.array_split(batch, self.comm.size)[self.comm.rank]


def _named(options: np.ndarray) -> str:
    names = ("samples", "batch_size", "shuffle", "drop_last")
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, options, strict=True))
