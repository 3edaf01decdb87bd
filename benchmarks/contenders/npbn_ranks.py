"""npbn on one of several ranks: its training steps, and its exchanges alone."""

from collections import Counter
from time import perf_counter
from typing import Any

import numpy as np
from mpi4py import MPI

import npbn
from benchmarks import network
from benchmarks.contenders.npbn_ import network_of, train_step
from benchmarks.ranks import shards
from benchmarks.task import Task
from npbn import distributed
from npbn.distributed.communicator import Communicator, Exchange

PARTS = ("BatchNorm", "loss", "gradients")  # of a step's exchanges


class Ranks:
    """One process among the others.

    Attributes
    ----------
    spent : Counter
        Seconds inside the exchanges of an observed step since it was last cleared, by PARTS, and
        ``"rest"``: what backward computed after it had sent the first bucket of gradients.
    """

    def __init__(self, rank: int, ranks: int, folder: str):
        self.comm = distributed.communicator()
        self.rank, self.ranks = self.comm.rank, self.comm.size
        self.spent: Counter[str] = Counter()

    def about(self) -> str:
        """Return the engine, NPBN_ENGINE's or NumPy's, and the MPI library."""
        library = " ".join(MPI.Get_library_version().splitlines()[0].rstrip("\0").split())
        return f"npbn's engine {npbn.get_engine()}, {library}"

    def barrier(self) -> None:
        """Return when all have come."""
        self.comm.allgather(np.zeros(1), "barrier")

    def task(self, role: str, problem: network.Problem) -> Task:
        """Return a step of training on this rank's shard of a batch."""
        mine = shards.shard(problem, self.rank, self.ranks)
        if role == "one process":
            return train_step(problem)
        if role == "no exchange":
            return train_step(mine)
        if role.startswith("one of "):
            return step(mine, True, Nobody(int(role.removeprefix("one of "))))._replace(read=None)
        comm = Observed(self.comm, self.spent) if role == "observed" else self.comm
        return step(mine, role != "plain", comm)

    def prove(self, role: str, problem: network.Problem, task: Task) -> None:
        """Prove a task's result, on all ranks at the same time; raise WrongError."""
        if role == "plain":  # everyone has taken over rank 0's running statistics
            shards.prove_shards(problem, task, self.ranks, owner=0, mine=None)
        elif role == "no exchange":
            network.prove_training(shards.shard(problem, self.rank, self.ranks), task)
        else:
            network.prove_training(problem, task)

    def exchange(self, kind: str, size: int, times: int) -> list[float]:
        """Return the seconds of exchanges of `size` bytes of each rank, for which all are there.

        A gather's bytes are those that travel: its first 8 are the communicator's stamp.
        """
        part = np.ones(size // 8 - 1 if kind == "gather" else size // 4, np.float32)
        part = part.astype(np.float64) if kind == "gather" else part
        seconds = []
        for _ in range(times):
            part.fill(1)
            self.barrier()
            start = perf_counter()
            if kind == "gather":
                self.comm.allgather(part, "gather")
            else:
                self.comm.start_sum(part, "sum").wait()
            seconds.append(perf_counter() - start)
        return seconds


def step(problem: network.Problem, synchronised: bool, comm: Communicator) -> Task:
    """Return a step of training in which the ranks exchange what DataParallel does."""
    net = network_of(problem)
    if synchronised:
        net = distributed.convert_sync_batch_norm(net, comm)
    parallel = distributed.DataParallel(net, comm)
    criterion = npbn.CrossEntropyLoss()
    optimizer = npbn.SGD(parallel.parameters(), lr=network.LEARNING_RATE)

    def run() -> float:
        x, target = problem.x, problem.target
        return distributed.train_step(parallel, x, target, criterion, optimizer)[0]

    return Task(run, lambda loss: {**net.state_dict(), "loss": np.float64(loss)})


class Nobody:
    """A communicator of one process that takes itself for one of many: all others are as it is.

    A step with it is what a rank computes for the exchanges, without any; sums stay its own.
    """

    def __init__(self, size: int):
        self.rank, self.size = 0, size

    def allgather(self, part: np.ndarray, what: str) -> np.ndarray:
        """Return the part as often as there are ranks."""
        return np.repeat(part[None], self.size, axis=0)

    def start_sum(self, array: np.ndarray, what: str) -> Exchange:
        """Return what is there already."""
        return Done(array)

    def broadcast(self, array: np.ndarray, what: str) -> None:
        """Leave rank 0's array as it is."""

    def fail(self, reason: str) -> Exception:
        """Return the error to raise."""
        return npbn.errors.DistributedError(reason)


class Done:
    """An exchange that is over."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def poll(self) -> None:
        """Do nothing."""

    def wait(self) -> np.ndarray:
        """Return the array."""
        return self.array


class Observed:
    """A communicator that adds up the seconds inside its exchanges."""

    def __init__(self, comm: Communicator, spent: Counter[str]):
        self.comm, self.spent = comm, spent
        self.rank, self.size = comm.rank, comm.size
        self.sent: float | None = None  # when the first bucket was sent, plus exchanges until then

    def inside(self) -> float:
        """Return the seconds inside all exchanges so far."""
        return sum(self.spent[part] for part in PARTS)

    def timed(self, what: str, call: Any, *arguments: Any) -> Any:
        """Return what a call returns."""
        start = perf_counter()
        result = call(*arguments)
        part = next((p for p in PARTS if what.startswith(p.lower())), "BatchNorm")
        self.spent[part] += perf_counter() - start
        return result

    def allgather(self, part: np.ndarray, what: str) -> np.ndarray:
        """Gather."""
        return self.timed(what, self.comm.allgather, part, what)

    def start_sum(self, array: np.ndarray, what: str) -> Exchange:
        """Start a sum."""
        exchange = self.timed(what, self.comm.start_sum, array, what)
        if what == "gradients 0":
            self.sent = perf_counter() - self.inside()
        return ObservedSum(self, exchange, what)

    def broadcast(self, array: np.ndarray, what: str) -> None:
        """Broadcast."""
        self.comm.broadcast(array, what)

    def fail(self, reason: str) -> Exception:
        """Fail."""
        return self.comm.fail(reason)


class ObservedSum:
    """A sum under way."""

    def __init__(self, comm: Observed, exchange: Exchange, what: str):
        self.comm, self.exchange, self.what = comm, exchange, what

    def poll(self) -> None:
        """Give it a chance to get on."""
        self.comm.timed(self.what, self.exchange.poll)

    def wait(self) -> np.ndarray:
        """Return the sum."""
        if self.what == "gradients 0" and self.comm.sent is not None:
            self.comm.spent["rest"] += perf_counter() - self.comm.inside() - self.comm.sent
            self.comm.sent = None
        return self.comm.timed(self.what, self.exchange.wait)
