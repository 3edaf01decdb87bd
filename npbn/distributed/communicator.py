"""What the rest of this package asks of the processes that train together.

:class:`Communicator` is the protocol. :mod:`npbn.distributed.mpi` speaks it over MPI; a test may
bring its own, in one process.
"""

from typing import Protocol

import numpy as np

from npbn.errors import DistributedError

TEXT = 512  # bytes of a problem that a rank tells the others


def encoded(text: str) -> bytes:
    """Return a text as bytes to send, whatever it holds; half a surrogate is no UTF-8."""
    return text.encode(errors="backslashreplace")


def decoded(content: bytes) -> str:
    """Return the text of bytes that may be cut and padded."""
    return content.rstrip(b"\0").decode(errors="ignore")


class Exchange(Protocol):
    """A sum over all ranks that is under way."""

    def poll(self) -> None:
        """Give it a chance to get on, without waiting."""

    def wait(self) -> np.ndarray:
        """Return the sum; the same bits on every rank."""


class Communicator(Protocol):
    """P processes, numbered by rank; all call the same methods in the same order.

    `what` names an exchange in messages: when ranks do not meet, they say who is where.
    """

    rank: int
    size: int

    def allgather(self, part: np.ndarray, what: str) -> np.ndarray:
        """Return the parts of all ranks, each of shape (n,) float64, as (P, n)."""

    def start_sum(self, array: np.ndarray, what: str) -> Exchange:
        """Begin to add an array over all ranks, in place, float32 or float64, C-contiguous."""

    def broadcast(self, array: np.ndarray, what: str) -> None:
        """Overwrite a C-contiguous array with rank 0's."""

    def fail(self, reason: str) -> DistributedError:
        """Tell the other ranks why this one cannot go on; return the error to raise."""


def agree(comm: Communicator, problem: str, what: str) -> None:
    """Raise on all ranks alike if any has a problem; an empty one is none."""
    if comm.size == 1:
        if problem:
            raise DistributedError(f"{what}: {problem}")
        return
    mine = encoded(problem)[:TEXT].ljust(TEXT, b"\0")
    texts = comm.allgather(np.frombuffer(mine, np.float64), what)
    problems = [decoded(row.tobytes()) for row in texts]
    found = [f"rank {rank}: {text}" for rank, text in enumerate(problems) if text]
    if found:
        raise DistributedError(f"{what}: " + "; ".join(found))


def broadcast_text(comm: Communicator, text: str, what: str) -> str:
    """Return rank 0's text."""
    content = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8).copy()
    length = np.array([content.size])
    comm.broadcast(length, what)
    if comm.rank:
        content = np.empty(length[0], np.uint8)
    comm.broadcast(content, what)
    return content.tobytes().decode(errors="surrogatepass")


def raise_not_finite(comm: Communicator, here: bool, what: str) -> None:
    """Raise on every rank, naming those whose values are not finite."""
    agree(comm, "NaN or infinite values" if here else "", what)
    raise DistributedError(f"{what}: finite on every rank, but not all together")
