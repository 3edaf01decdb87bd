"""The loader that hands every rank its shard of each batch."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from typing import Any

import numpy as np

from npbn import data
from npbn.data import ArrayDataset
from npbn.distributed.communicator import agree
from npbn.distributed.mpi import communicator
from npbn.errors import DataError


class DataLoader(data.DataLoader):
    """Iterate over a data set in batches of which every rank gets a shard.

    The batches are those of :class:`npbn.DataLoader` in one process, in rank 0's order; shard r
    of P is the r-th of P runs of samples whose lengths differ by one at the most. So every sample
    comes once an epoch, on one rank, for any number of ranks. In a last batch of fewer samples
    than ranks some shards are empty.

    Parameters
    ----------
    dataset : ArrayDataset
        The whole data set, on every rank.
    batch_size : int
        Samples of the whole batch, over all ranks; at least one a rank.
    shuffle, drop_last, rng
        :class:`npbn.DataLoader`'s. Every rank's Generator is drawn from, rank 0's counts: seeds
        may differ.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.

    Raises
    ------
    DataError
        On fewer samples than ranks.
    ValueError
        On a `batch_size` below the number of ranks.
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
                f"DataLoader: expected a sample for each of the {self.comm.size} ranks at least, "
                f"got {len(dataset)}"
            )
        if batch_size < self.comm.size:
            raise ValueError(
                f"DataLoader: expected a batch_size over all ranks, of {self.comm.size} at least, "
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
