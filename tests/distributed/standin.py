"""Ranks as threads of one process: a stand-in for MPI that is strict, and keeps count.

Every rank's messages are written down. An exchange goes through when all ranks have come to it,
and only then: ranks that meet at different ones, or with different arrays, fail; an array that
is being added must not be touched, and holds NaN until the sum is fetched.
"""

import itertools
import threading
from typing import NamedTuple

import numpy as np

from npbn.errors import DistributedError

TIMEOUT = 100.0  # seconds; a rank that waits so long for the others fails

STAMP = 8  # bytes that a gather over MPI sends beside the part: which exchange it is


class Message(NamedTuple):
    kind: str  # "gather", "sum" or "broadcast"
    what: str
    bytes: int  # that this rank sends


class Broken(DistributedError):
    """Another rank has failed, and so this one cannot go on."""


class Shared:
    """What the ranks have in common: for each exchange, by number, the parts by rank."""

    def __init__(self, size):
        self.size, self.changed = size, threading.Condition()
        self.exchanges = []
        self.broken = None

    def post(self, number, rank, what, part):
        with self.changed:
            if number == len(self.exchanges):
                self.exchanges.append({})
            self.exchanges[number][rank] = (what, part)
            self.changed.notify_all()

    def all(self, number):
        """Wait for all ranks at an exchange; return their parts."""
        posts = self.exchanges[number]
        with self.changed:
            done = self.changed.wait_for(
                lambda: len(posts) == self.size or self.broken, timeout=TIMEOUT
            )
            if len(posts) < self.size:
                missing = sorted(set(range(self.size)) - set(posts))
                reason = self.broken if done else f"ranks {missing} did not come"
                raise Broken(f"exchange {number}, {next(iter(posts.values()))[0]}: {reason}")
        parts = [posts[rank][1] for rank in range(self.size)]
        alike = {(*posts[rank][0], parts[rank].shape, parts[rank].dtype.str) for rank in posts}
        assert len(alike) == 1, f"ranks met at different exchanges: {alike}"
        return parts

    def fail(self, reason):
        with self.changed:
            self.broken = self.broken or reason
            self.changed.notify_all()


class Standin:
    """One rank's communicator: what npbn.distributed.Communicator asks for.

    Attributes
    ----------
    messages : list of Message
    events : list of str
        "send ..." and "receive ..." of every exchange, to which a test may add its own.
    """

    def __init__(self, rank, shared):
        self.rank, self.size, self._shared = rank, shared.size, shared
        self.messages, self.events, self._number = [], [], 0

    def _post(self, kind, what, part, size):
        number, self._number = self._number, self._number + 1
        self.messages.append(Message(kind, what, size))
        self.events.append(f"send {what}")
        self._shared.post(number, self.rank, (kind, what), part)
        return number

    def _all(self, number, what):
        parts = self._shared.all(number)
        self.events.append(f"receive {what}")
        return parts

    def allgather(self, part, what):
        assert (part.ndim, part.dtype) == (1, np.float64), (part, what)
        number = self._post("gather", what, part.copy(), STAMP + part.nbytes)
        return np.stack(self._all(number, what))

    def start_sum(self, array, what):
        assert array.dtype in (np.float32, np.float64), array.dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
        return Sum(self, array, what)

    def broadcast(self, array, what):
        assert array.flags.c_contiguous
        number = self._post("broadcast", what, array.copy(), array.nbytes if not self.rank else 0)
        array[...] = self._all(number, what)[0]

    def fail(self, reason):
        self._shared.fail(f"rank {self.rank}: {reason}")
        return DistributedError(f"rank {self.rank}: {reason}")

    def __deepcopy__(self, memo):
        return self


def alone():
    """Return a communicator of one rank."""
    return Standin(0, Shared(1))


class Sum:
    """Added in the order of the ranks when it is fetched, so that all have the same bits."""

    def __init__(self, comm, array, what):
        self._comm, self._array, self._what = comm, array, what
        self._number = comm._post("sum", what, array.copy(), array.nbytes)
        array.fill(np.nan)  # nobody knows what is in it while the sum is under way

    def poll(self):
        pass

    def wait(self):
        assert np.isnan(self._array).all(), f"{self._what} was written to while under way"
        parts = self._comm._all(self._number, self._what)
        with np.errstate(all="ignore"):
            self._array[...] = sum(parts[1:], parts[0])
        return self._array


def outcomes(size, program):
    """Run `program(comm)` on ranks 0 to size − 1; return what each returned or raised."""
    shared = Shared(size)
    results = [None] * size

    def rank_program(rank):
        try:
            results[rank] = program(Standin(rank, shared))
        except BaseException as error:
            results[rank] = error
            shared.fail(f"rank {rank} raised {type(error).__name__}: {error}")

    threads = [threading.Thread(target=rank_program, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    return results


def run(size, program):
    """Run `program(comm)` on all ranks; return the results by rank, or raise a rank's error."""
    results = outcomes(size, program)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, Broken)):
        raise error
    return results


def fails(size, program, kind=DistributedError):
    """Run a program that has to raise `kind` on all ranks, with one message; return it."""
    results = outcomes(size, program)
    assert all(type(result) is kind for result in results), results
    assert len({str(result) for result in results}) == 1, results
    return str(results[0])


def cuts(draw, samples, size):
    """Draw the ends of `size` shards of a batch, some of which may be empty; return slices."""
    from hypothesis import strategies as st

    ends = st.lists(st.integers(0, samples), min_size=size - 1, max_size=size - 1)
    bounds = [0, *sorted(draw(ends)), samples]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]
