"""One pool of threads, shared, for large arrays alone.

The loops of both engines let go of the interpreter lock, so that parts of one array can be worked
on at the same time. Results are the same, bit for bit, for any number of threads.
"""

import os
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def _available() -> int:
    """Return OMP_NUM_THREADS, which torch and BLAS heed too, or the CPUs this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_num_threads = _available()


def get_num_threads() -> int:
    """Return how many threads work on a large array."""
    return _num_threads


def set_num_threads(num_threads: int) -> None:
    """Set how many threads work on a large array; at first, as many as there are CPUs.

    It is for npbn's own loops over large arrays (8 MB and more in NumPy, 512 KB compiled); smaller
    ones take one thread whatever is set here. The matrix products are NumPy's BLAS's, which has
    threads of its own (OPENBLAS_NUM_THREADS, or the package threadpoolctl).

    Raises
    ------
    ValueError
        If `num_threads` is not a positive integer.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    global _num_threads
    if not isinstance(num_threads, int | np.integer) or num_threads < 1:
        raise ValueError(f"set_num_threads: expected a positive integer, got {num_threads!r}")
    _num_threads = int(num_threads)


def share(work: Callable[..., T], parts: list[tuple], threaded: bool = True) -> list[T]:
    """Return ``work(*part)`` for every part, in order, the parts shared out among the threads."""
    threads = min(_num_threads, len(parts)) if threaded else 1
    if threads <= 1:
        return [work(*part) for part in parts]
    cuts = [len(parts) * i // threads for i in range(threads + 1)]
    runs = [partial(_run, work, parts[start:stop]) for start, stop in pairwise(cuts)]
    # The process's number: a forked child has the workers' locks, but none of their threads.
    return [result for results in _workers(os.getpid()).run(runs) for result in results]


@np.errstate(all="ignore")  # each thread has its own
def _run(work: Callable[..., T], parts: list[tuple]) -> list[T]:
    return [work(*part) for part in parts]


@lru_cache(maxsize=1)
def _workers(process: int) -> "Workers":
    return Workers()


class Workers:
    """Threads that wait for work on locks: 8 µs there and back, of an executor 20 (Zen 2)."""

    def __init__(self):
        self._busy = threading.Lock()
        self._workers: list[_Worker] = []

    def run(self, jobs: list[Callable[[], T]]) -> list[T]:
        """Return the jobs' results, the first one's by this thread; raise what a job raised.

        While another thread has the workers, this one does all jobs itself.
        """
        if not self._busy.acquire(blocking=False):
            return [job() for job in jobs]
        try:
            while len(self._workers) < len(jobs) - 1:
                self._workers.append(_Worker())
            helpers = self._workers[: len(jobs) - 1]
            for helper, job in zip(helpers, jobs[1:], strict=True):
                helper.start(job)
            try:
                results = [jobs[0]()]
            finally:
                outcomes = [helper.outcome() for helper in helpers]
        finally:
            self._busy.release()
        for result, error in outcomes:
            if error is not None:
                raise error
            results.append(result)
        return results


class _Worker:
    """A thread that does one job after another."""

    def __init__(self):
        self._begin, self._end = threading.Lock(), threading.Lock()
        self._begin.acquire()
        self._end.acquire()
        self._job: Callable | None = None
        self._outcome: tuple[Any, BaseException | None] = None, None
        threading.Thread(target=self._work, name="npbn", daemon=True).start()

    def start(self, job: Callable) -> None:
        self._job = job
        self._begin.release()

    def outcome(self) -> tuple[Any, BaseException | None]:
        self._end.acquire()
        outcome, self._outcome = self._outcome, (None, None)  # keep no arrays alive
        return outcome

    def _work(self) -> None:
        while True:
            self._begin.acquire()
            job, self._job = self._job, None
            try:
                self._outcome = job(), None
            except BaseException as error:  # raised where the work was shared out
                self._outcome = None, error
            del job
            self._end.release()
