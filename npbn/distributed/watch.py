"""The watch over the other ranks: how one that fails, is gone or is late gets a name.

A collective operation of MPI waits for ever, and does not say for whom. Beside it ranks send each
other notes, as messages that nobody waits for: one that fails says why, one that ends says so, and
one that has waited for a second says where. Whoever waits reads them, and looks whether the
processes on its own machine are alive.

A rank that fails gives the others GRACE seconds to end with an error of their own; then it ends
them all (MPI_Abort), since MPI knows no other way out of a collective operation.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npbn.distributed.communicator import decoded, encoded
from npbn.errors import DistributedError

if TYPE_CHECKING:
    from mpi4py import MPI

TIMEOUT = 60.0  # seconds for which a rank waits for the others, unless told
GRACE = 5.0  # seconds that a failing rank gives the others to end by themselves
PATIENCE = 1.0  # seconds of waiting after which a rank says where it is
LOOK = 0.1  # seconds between two looks at notes and processes
SPINS = 1000  # tests of a request, 0.2 µs each, before the CPU is offered to others
NAP = 0.002  # seconds of offering after which a rank sleeps between its tests, 50 µs at a time
SIZE = 1024  # bytes of a note

WAITING, FAILED, ENDED = "waiting", "failed", "ended"


class Note(NamedTuple):
    """What a rank tells the others: its state at one exchange, and why or where."""

    kind: str
    number: int
    text: str


class Watch:
    """Watches the other ranks of a communicator of its own.

    Attributes
    ----------
    number, what : int, str
        The exchange that this rank is at.
    places : list of (str, int)
        Machine and process of each rank.
    """

    def __init__(self, comm: "MPI.Comm", timeout: float):
        self._comm, self._timeout = comm, timeout
        self._rank, others = comm.rank, set(range(comm.size)) - {comm.rank}
        self.number, self.what = 0, "the start"
        self._notes: dict[int, Note] = {}
        self._sent: list[tuple[MPI.Request, np.ndarray]] = []
        self._failure = ""
        self.places = _places(comm)
        if comm.size == 1:
            return
        node = self.places[self._rank][0]
        self._near = {rank for rank in others if self.places[rank][0] == node}
        self._near = {rank for rank in self._near if self._alive(rank)}
        _outlive_signal()
        atexit.register(self._leave)  # before MPI's own end, which waits for all ranks

    def enter(self, what: str) -> None:
        """Begin the next exchange."""
        self.number += 1
        self.what = what

    def wait(self, done: Callable[[], bool]) -> None:
        """Return when `done()`; raise DistributedError when that will not be."""
        for _ in range(SPINS):
            if done():
                return
        start, look, told = monotonic(), 0.0, False
        while not done():
            waited = monotonic() - start
            if waited > NAP:
                sleep(50e-6)
            else:
                os.sched_yield() if hasattr(os, "sched_yield") else sleep(0)
            if waited > PATIENCE and not told:
                self._tell(Note(WAITING, self.number, self.what))
                told = True
            if waited >= look:
                look = waited + LOOK
                self._look(waited)

    def fail(self, reason: str) -> DistributedError:
        """Tell the others why this rank cannot go on; return the error to raise."""
        if not self._failure:
            self._failure = f"rank {self._rank}: {reason}"
            self._tell(Note(FAILED, self.number, self._failure))
        return DistributedError(self._failure)

    def _look(self, waited: float) -> None:
        """Raise DistributedError if there is no use in waiting on."""
        self._read()
        reason = self._told() or self._gone() or (self._late() if waited > self._timeout else "")
        if reason:
            self._failure = reason
            raise DistributedError(reason)

    def _told(self) -> str:
        """Return what the notes say against waiting."""
        for rank, note in self._notes.items():
            if note.kind == FAILED:
                return note.text
            if note.kind == ENDED and note.number < self.number:
                return (
                    f"rank {rank} has ended, after exchange {note.number}, while rank "
                    f"{self._rank} waits for it at exchange {self.number}, {self.what!r}"
                )
            if note.kind == WAITING and note.number == self.number and note.text != self.what:
                return (
                    f"rank {rank} is at {note.text!r} and rank {self._rank} at {self.what!r}: "
                    "all ranks have to do the same"
                )
        return ""

    def _gone(self) -> str:
        """Return which process of this machine is there no more, though it has not said goodbye."""
        missing = [rank for rank in self._near if not self._alive(rank)]
        self._read()  # their last notes
        gone = [rank for rank in missing if self._state(rank) not in (ENDED, FAILED)]
        return f"{self._name(gone[0])} is gone: killed, or it crashed" if gone else ""

    def _late(self) -> str:
        """Return which ranks have not come here."""
        late = [
            rank
            for rank in range(self._comm.size)
            if rank != self._rank
            and (rank not in self._notes or self._notes[rank].number < self.number)
        ]
        return (
            f"{', '.join(map(self._name, late)) or 'another rank'} did not come to exchange "
            f"{self.number}, {self.what!r}, within {self._timeout:g} s"
        )

    def _state(self, rank: int) -> str:
        return self._notes[rank].kind if rank in self._notes else ""

    def _name(self, rank: int) -> str:
        node, process = self.places[rank]
        return f"rank {rank} (process {process} on {node})"

    def _alive(self, rank: int) -> bool:
        process = self.places[rank][1]
        if os.name != "posix":  # elsewhere `kill` kills
            return True
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is somebody else's: there it is
            return True
        with suppress(OSError):  # Linux alone says whether it has ended, and nobody looked yet
            status = Path(f"/proc/{process}/stat").read_text(errors="replace")
            return status.rpartition(")")[2].split()[0] not in "ZX"
        return True

    # -- notes ------------------------------------------------------------------------------

    def _tell(self, note: Note) -> None:
        text = encoded(f"{note.kind} {note.number} {note.text}")[:SIZE]
        content = np.frombuffer(text.ljust(SIZE, b"\0"), np.uint8)
        for rank in range(self._comm.size):
            if rank != self._rank:
                self._sent.append((self._comm.Isend(content, rank), content))

    def _read(self) -> None:
        from mpi4py import MPI

        status = MPI.Status()
        while self._comm.Iprobe(status=status):
            content = np.empty(SIZE, np.uint8)
            self._comm.Recv(content, status.Get_source())
            kind, number, rest = decoded(content.tobytes()).split(" ", 2)
            self._notes[status.Get_source()] = Note(kind, int(number), rest)

    # -- the end ----------------------------------------------------------------------------

    def _leave(self) -> None:
        """Run when the interpreter ends: say so, and see to it that a failure ends all ranks."""
        from mpi4py import MPI

        if MPI.Is_finalized():
            return
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        if error is not None and not self._failure:
            self.fail(_named(error))
        if not self._failure:
            self._tell(Note(ENDED, self.number, ""))
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self._tell(Note(FAILED, self.number, self._failure))
        start = monotonic()
        while monotonic() - start < GRACE and not self._all_ended():
            sleep(0.01)
        self._comm.Abort(1)

    def _all_ended(self) -> bool:
        self._read()
        ended = {rank for rank in self._notes if self._state(rank) in (FAILED, ENDED)}
        gone = {rank for rank in self._near if not self._alive(rank)}
        return len(ended | gone) == self._comm.size - 1


def _named(error: BaseException) -> str:
    """Return kind and text of an error, which need not have one."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException as broken:  # whatever its __str__ does
        return f"{name}, whose text cannot be had ({type(broken).__name__})"


def _places(comm: "MPI.Comm") -> list[tuple[str, int]]:
    """Return the machine and the process of every rank."""
    from mpi4py import MPI

    mine = np.zeros(SIZE, np.uint8)
    text = encoded(f"{os.getpid()} {MPI.Get_processor_name()}")[:SIZE]
    mine[: len(text)] = np.frombuffer(text, np.uint8)
    everyone = np.empty((comm.size, SIZE), np.uint8)
    comm.Allgather(mine, everyone)
    texts = [decoded(row.tobytes()) for row in everyone]
    pairs = [text.split(" ", 1) for text in texts]
    return [(node, int(process)) for process, node in pairs]


def _outlive_signal() -> None:
    """Ignore SIGUSR1, which would end the process: MPICH tells survivors so of a killed rank."""
    with suppress(AttributeError, ValueError):  # not on Windows; the main thread's business
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
