"""Watches the other ranks, to report which one failed, was killed or is late.

A collective operation of MPI waits without limit and does not report for which rank. Ranks
therefore send each other notes, as messages for which no rank waits: when a rank fails, with the
reason; when it ends; and after a second of waiting, with the name of the exchange. A rank that
waits reads the notes and checks whether the processes on its machine are alive.

A rank that fails gives the others GRACE seconds to end with an error of their own. Then it ends
them all by MPI_Abort: MPI has no other means to leave a collective operation.
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

TIMEOUT = 60.0  # seconds for which a rank waits for the others, by default
GRACE = 5.0  # seconds that a failing rank gives the others to end by themselves
PATIENCE = 1.0  # seconds of waiting after which a rank sends a note
LOOK = 0.1  # seconds between two checks of notes and processes
SPINS = 1000  # tests of a request, 0.2 µs each, before the rank yields the CPU
NAP = 0.002  # seconds of yielding after which a rank sleeps for 50 µs between tests
SIZE = 1024  # bytes of a note

WAITING, FAILED, ENDED = "waiting", "failed", "ended"


class Note(NamedTuple):
    """What a rank sends the others: its state, the number of the exchange, and reason or name."""

    kind: str
    number: int
    text: str


class Watch:
    """Watches the other ranks of a communicator that nothing else uses.

    Attributes
    ----------
    number, what : int, str
        Number and name of the exchange that this rank is at.
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
        """Start the next exchange."""
        self.number += 1
        self.what = what

    def wait(self, done: Callable[[], bool]) -> None:
        """Return when `done()`; raise DistributedError if a rank failed, ended or is late."""
        for _ in range(SPINS):
            if done():
                return
        start, look, noted = monotonic(), 0.0, False
        while not done():
            waited = monotonic() - start
            if waited > NAP:
                sleep(50e-6)
            else:
                os.sched_yield() if hasattr(os, "sched_yield") else sleep(0)
            if waited > PATIENCE and not noted:
                self._send(Note(WAITING, self.number, self.what))
                noted = True
            if waited >= look:
                look = waited + LOOK
                self._look(waited)

    def fail(self, reason: str) -> DistributedError:
        """Send the other ranks the reason why this one fails; return the error to raise."""
        if not self._failure:
            self._failure = f"rank {self._rank}: {reason}"
            self._send(Note(FAILED, self.number, self._failure))
        return DistributedError(self._failure)

    def _look(self, waited: float) -> None:
        """Raise DistributedError if it is useless to wait any longer."""
        self._read()
        late = self._late() if waited > self._timeout else ""
        reason = self._noted() or self._gone() or late
        if reason:
            self._failure = reason
            raise DistributedError(reason)

    def _noted(self) -> str:
        """Return the reason in the notes not to wait any longer, or an empty text."""
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
        """Name a rank of this machine whose process ended without a note, or return ''."""
        missing = [rank for rank in self._near if not self._alive(rank)]
        self._read()  # their last notes
        gone = [rank for rank in missing if self._state(rank) not in (ENDED, FAILED)]
        return f"{self._name(gone[0])} is gone: killed, or it crashed" if gone else ""

    def _late(self) -> str:
        """Name the ranks that have not reached this exchange."""
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
        except OSError:  # it exists, but belongs to another user
            return True
        with suppress(OSError):  # a zombie has ended; only Linux shows it
            status = Path(f"/proc/{process}/stat").read_text(errors="replace")
            return status.rpartition(")")[2].split()[0] not in "ZX"
        return True

    # -- notes ------------------------------------------------------------------------------

    def _send(self, note: Note) -> None:
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
        """Send a last note when the interpreter ends; after a failure, end all ranks."""
        from mpi4py import MPI

        if MPI.Is_finalized():
            return
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        if error is not None and not self._failure:
            self.fail(_named(error))
        if not self._failure:
            self._send(Note(ENDED, self.number, ""))
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self._send(Note(FAILED, self.number, self._failure))
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
    """Return type and text of an error, whose text may fail."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException as broken:  # raised by its __str__
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
    """Ignore SIGUSR1, by which MPICH reports a killed rank to the others: it would end them."""
    with suppress(AttributeError, ValueError):  # not on Windows, nor outside the main thread
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
