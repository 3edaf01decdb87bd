"""Training on several processes over MPI, each with a shard of every batch.

``pip install 'npbn[mpi]'``, then ``mpiexec -n 2 python train.py``. All ranks run the same program.
:func:`convert_sync_batch_norm` and :class:`DataParallel` prepare the network,
:class:`DataLoader` gives each rank its shards, and the results are those of one process.
"""

from npbn.distributed.communicator import Communicator
from npbn.distributed.conversion import convert_sync_batch_norm, revert_sync_batch_norm
from npbn.distributed.data_parallel import DataParallel
from npbn.distributed.loader import DataLoader
from npbn.distributed.mpi import communicator
from npbn.distributed.population import update_batch_norm
from npbn.distributed.sync_batch_norm import SyncBatchNorm
from npbn.distributed.training import evaluate, train_epoch, train_step

__all__ = [
    "Communicator",
    "DataLoader",
    "DataParallel",
    "SyncBatchNorm",
    "communicator",
    "convert_sync_batch_norm",
    "evaluate",
    "revert_sync_batch_norm",
    "train_epoch",
    "train_step",
    "update_batch_norm",
]
