"""The communicator over MPI, in which every wait has an end."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from npbn.arguments import check_number
from npbn.distributed.communicator import Communicator, Exchange, encoded
from npbn.distributed.watch import TIMEOUT, Watch
from npbn.errors import DistributedError

if TYPE_CHECKING:
    from mpi4py import MPI

INSTALL = "npbn.distributed needs mpi4py and an MPI library: pip install 'npbn[mpi]'"


class MPICommunicator:
    """A communicator on top of mpi4py's; made by :func:`communicator`."""

    def __init__(self, comm: "MPI.Comm", timeout: float):
        self._comm = comm.Dup()  # separates its messages from those of other code
        self._watch = Watch(comm.Dup(), timeout)
        # Requests keep their arrays alive: after a failure MPI may still write to them.
        self._open: dict[int, MPI.Request] = {}
        self.rank: int = comm.rank
        self.size: int = comm.size

    def allgather(self, part: np.ndarray, what: str) -> np.ndarray:
        """Return the parts of all ranks, each of shape (n,) float64, as (P, n)."""
        mine = np.concatenate([[self._stamp(what)], part])
        parts = np.empty((self.size, mine.size))
        self._wait(self._start(lambda: self._comm.Iallgather(mine, parts)))
        for rank in np.flatnonzero(parts[:, 0] != mine[0]):
            raise self.fail(
                f"it is at {what!r} and rank {rank} is not: all ranks have to do the same"
            )
        return parts[:, 1:]

    def start_sum(self, array: np.ndarray, what: str) -> Exchange:
        """Start adding an array over all ranks, in place."""
        from mpi4py import MPI

        self._stamp(what)
        return _Sum(self, self._start(lambda: self._comm.Iallreduce(MPI.IN_PLACE, array)), array)

    def broadcast(self, array: np.ndarray, what: str) -> None:
        """Overwrite an array with that of rank 0."""
        self._stamp(what)
        self._wait(self._start(lambda: self._comm.Ibcast(array, root=0)))

    def fail(self, reason: str) -> DistributedError:
        """Send the other ranks the reason why this one fails; return the error to raise."""
        return self._watch.fail(reason)

    def _stamp(self, what: str) -> float:
        """Count the exchange; return a checksum of number and name, the same on every rank."""
        self._watch.enter(what)
        return float(crc32(encoded(f"{self._watch.number} {what}")))

    def _start(self, operation: Callable[[], "MPI.Request"]) -> "MPI.Request":
        request: MPI.Request = self._guarded(operation)
        self._open[id(request)] = request
        return request

    def _wait(self, request: "MPI.Request") -> None:
        self._guarded(lambda: self._watch.wait(request.Test))
        del self._open[id(request)]

    def _guarded(self, call: Callable[[], Any]) -> Any:
        from mpi4py import MPI

        try:
            return call()
        except MPI.Exception as error:  # messages of different lengths, for instance
            raise self.fail(f"MPI at {self._watch.what!r}: {error}") from error

    def __deepcopy__(self, memo: dict[int, Any]) -> "MPICommunicator":
        return self  # a copied network uses the same ranks

    def __reduce__(self) -> Any:
        raise TypeError(
            "a communicator cannot be pickled: save net.state_dict(), or the network with npbn.save"
        )

    def __repr__(self) -> str:
        # The launcher reports a killed process by its number only.
        places = enumerate(self._watch.places)
        ranks = [f"rank {rank} is process {process} on {node}" for rank, (node, process) in places]
        return f"MPICommunicator of {self.size}: {', '.join(ranks)}"


class _Sum:
    """A sum that has been started; it keeps the array alive."""

    def __init__(self, comm: MPICommunicator, request: "MPI.Request", array: np.ndarray):
        self._comm, self._request, self._array = comm, request, array

    def poll(self) -> None:
        self._request.Test()

    def wait(self) -> np.ndarray:
        self._comm._wait(self._request)
        return self._array


def communicator(comm: Any = None, timeout: float = TIMEOUT) -> Communicator:
    """Return npbn's communicator for one of mpi4py's.

    The first call for a communicator is collective; later calls return the same object. All that
    takes a `comm` calls this function: call it yourself only to set `timeout`.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, Communicator, or None
        None is ``MPI.COMM_WORLD``. A Communicator is returned as it is.
    timeout : float
        Seconds for which a rank waits for the others. That another rank failed or was killed is
        known within one second.

    Returns
    -------
    Communicator

    Raises
    ------
    ModuleNotFoundError
        If mpi4py or the MPI library that it needs is missing; the message says what to install.
    TypeError
        If `comm` is no communicator.
    ValueError
        If `timeout` is no number of at least 0.
    """
    check_number("communicator", "timeout", timeout, least=0)
    if comm is not None and hasattr(comm, "start_sum"):
        made: Communicator = comm
        return made
    try:
        from mpi4py import MPI
    except (ModuleNotFoundError, RuntimeError) as error:  # RuntimeError: no MPI library
        raise ModuleNotFoundError(INSTALL) from error
    comm = MPI.COMM_WORLD if comm is None else comm
    if not isinstance(comm, MPI.Comm):
        raise TypeError(f"expected a communicator of mpi4py's, got {type(comm).__name__}")
    known: Any = comm.Get_attr(_keyval())
    if known is None:
        known = MPICommunicator(comm, timeout)
        comm.Set_attr(_keyval(), known)
    ours: Communicator = known
    return ours


@lru_cache(maxsize=1)
def _keyval() -> int:
    """Return the key under which a communicator of MPI's keeps ours as an attribute."""
    from mpi4py import MPI

    return MPI.Comm.Create_keyval()
