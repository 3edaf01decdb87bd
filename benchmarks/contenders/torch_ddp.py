"""torch's DistributedDataParallel over gloo, on one of several ranks.

Its BatchNorm is each rank's own: torch has a synchronised one for GPUs alone. The loss is the
rank's own too, since DistributedDataParallel does not exchange it.
"""

import os
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks import network
from benchmarks.contenders.torch_eager import loss_of, network_of, set_threads, step_of, train_step
from benchmarks.ranks import shards
from benchmarks.task import Task

__all__ = ["Ranks", "set_threads"]


class Ranks:
    """One process among the others; they meet in a file in `folder`."""

    def __init__(self, rank: int, ranks: int, folder: str):
        self.rank, self.ranks, self.spent = rank, ranks, Counter()
        for _, name in socket.if_nameindex():
            if name.startswith("lo"):  # not the address of the host's name, which may be elsewhere
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        place = (Path(folder) / "gloo").as_uri()
        distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks)

    def about(self) -> str:
        """Return the library."""
        return f"torch {torch.__version__}, gloo"

    def barrier(self) -> None:
        """Return when all have come."""
        distributed.barrier()

    def task(self, role: str, problem: network.Problem) -> Task:
        """Return a step of training on this rank's shard of a batch."""
        if role == "one process":
            return train_step(problem)
        mine = shards.shard(problem, self.rank, self.ranks)
        task = step_of(DistributedDataParallel(network_of(mine)), mine, loss_of)

        def read(loss: float) -> dict[str, np.ndarray]:
            return {k.removeprefix("module."): v for k, v in task.read(loss).items()}

        return task._replace(read=read)

    def prove(self, role: str, problem: network.Problem, task: Task) -> None:
        """Prove a task's result, on all ranks at the same time; raise WrongError."""
        if role == "one process":
            network.prove_training(problem, task)
        else:
            shards.prove_shards(problem, task, self.ranks, owner=self.rank, mine=self.rank)
