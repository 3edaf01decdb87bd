"""The protocol by which processes that train together exchange arrays.

:mod:`npbn.distributed.mpi` implements :class:`Communicator` over MPI; tests implement it in one
process.
"""

from typing import Protocol

import numpy as np

from npbn.errors import DistributedError

TEXT = 512  # bytes of the description of a problem that is sent to other ranks


def encoded(text: str) -> bytes:
    """Return any text as bytes to send; lone surrogates, which UTF-8 has not, are escaped."""
    return text.encode(errors="backslashreplace")


def decoded(content: bytes) -> str:
    """Return the text in bytes that may be cut off and padded."""
    return content.rstrip(b"\0").decode(errors="ignore")


class Exchange(Protocol):
    """A sum over all ranks that has been started."""

    def poll(self) -> None:
        """Let it make progress, without waiting."""

    def wait(self) -> np.ndarray:
        """Wait for the sum and return it; it is the same, bit for bit, on every rank."""


class Communicator(Protocol):
    """P processes, numbered by rank; all call the same methods in the same order.

    `what` names an exchange, for the message when ranks are at different ones.

    Parameters
    ----------
    *args, **kwargs
        Those of the implementation.

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    size : int
        P.
    """

    rank: int
    size: int

    def allgather(self, part: np.ndarray, what: str) -> np.ndarray:
        """Return the parts of all ranks as rows.

        Parameters
        ----------
        part : ndarray, shape (n,), float64
            That of this rank.
        what : str
            Name of the exchange.

        Returns
        -------
        ndarray, shape (P, n), float64
            The part of rank r as row r.
        """

    def start_sum(self, array: np.ndarray, what: str) -> Exchange:
        """Start adding an array over all ranks, in place.

        Parameters
        ----------
        array : ndarray, C-contiguous, float32 or float64
            That of this rank; it has the sum afterwards.
        what : str
            Name of the exchange.

        Returns
        -------
        Exchange
            Its ``wait()`` returns the sum.
        """

    def broadcast(self, array: np.ndarray, what: str) -> None:
        """Overwrite an array with that of rank 0.

        Parameters
        ----------
        array : ndarray, C-contiguous
            Of the same shape and dtype on all ranks.
        what : str
            Name of the exchange.
        """

    def fail(self, reason: str) -> DistributedError:
        """Send the other ranks the reason why this one fails.

        Parameters
        ----------
        reason : str
            For the message of the error.

        Returns
        -------
        DistributedError
            The error to raise.
        """


def agree(comm: Communicator, problem: str, what: str) -> None:
    """Raise DistributedError on all ranks if one of them has a problem; an empty text is none."""
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
    """Return the text of rank 0."""
    content = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8).copy()
    length = np.array([content.size])
    comm.broadcast(length, what)
    if comm.rank:
        content = np.empty(int(length[0]), np.uint8)
    comm.broadcast(content, what)
    return bytes(content).decode(errors="surrogatepass")


def raise_not_finite(comm: Communicator, here: bool, what: str) -> None:
    """Raise DistributedError on every rank, with the ranks whose values are not finite."""
    agree(comm, "NaN or infinite values" if here else "", what)
    raise DistributedError(f"{what}: finite values on each rank, but their sum is not finite")
