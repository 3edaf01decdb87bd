"""The pool of threads that work on large arrays.

The loops of both engines release the interpreter lock, so that threads work on parts of an array
at the same time. Results are the same, bit for bit, for any number of threads.
"""

import os
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Part = tuple[Any, ...]  # the arguments of one call


def _available() -> int:
    """Return OMP_NUM_THREADS, as torch and BLAS do, or the number of CPUs of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_num_threads = _available()

# Arrays of this size, in bytes, or larger are worked on by several threads. To wake one takes up to
# 150 µs on two virtual CPUs (Zen 3), which may be one core: BatchNorm's forward pass of 4 MB takes
# 670 µs in one thread and took 1,090 in two.
LARGE = 8 * 1024 * 1024


def get_num_threads() -> int:
    """Return the number of threads that work on a large array.

    Returns
    -------
    int
        As set by :func:`set_num_threads`; at first ``OMP_NUM_THREADS``, or the number of CPUs that
        this process may use.

    Examples
    --------
    >>> get_num_threads() >= 1
    True
    """
    return _num_threads


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads that work on a large array.

    It concerns npbn's loops over arrays of at least 8 MB (in the compiled pooling, convolution and
    cross-entropy 512 KB); loops over smaller arrays run in one thread. Matrix products are computed
    by NumPy's BLAS, which has its own threads (set by OPENBLAS_NUM_THREADS, or the package
    threadpoolctl).

    Parameters
    ----------
    num_threads : int
        At least 1.

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
    integer = isinstance(num_threads, int | np.integer) and not isinstance(num_threads, bool)
    if not integer or num_threads < 1:
        raise ValueError(f"set_num_threads: expected a positive integer, got {num_threads!r}")
    _num_threads = int(num_threads)


def large(x: np.ndarray) -> bool:
    """Return whether several threads work on `x`."""
    return x.nbytes >= LARGE and _num_threads > 1


def share(work: Callable[..., T], parts: list[Part], threaded: bool = True) -> list[T]:
    """Return ``work(*part)`` for each part, in order; the parts are divided among the threads."""
    threads = min(_num_threads, len(parts)) if threaded else 1
    if threads <= 1:
        return [work(*part) for part in parts]
    cuts = [len(parts) * i // threads for i in range(threads + 1)]
    runs: list[Callable[[], list[T]]] = [
        partial(_run, work, parts[start:stop]) for start, stop in pairwise(cuts)
    ]
    # By process: a forked child has the workers' locks, but not their threads.
    return [result for results in _workers(os.getpid()).run(runs) for result in results]


@np.errstate(all="ignore")  # each thread has its own
def _run(work: Callable[..., T], parts: list[Part]) -> list[T]:
    return [work(*part) for part in parts]


@lru_cache(maxsize=1)
def _workers(process: int) -> "Workers":
    return Workers()


class Workers:
    """Threads that wait for work on locks: 8 µs for a job, with an executor 20 (Zen 2)."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._workers: list[_Worker] = []

    def run(self, jobs: list[Callable[[], T]]) -> list[T]:
        """Return the results of the jobs, the first done by this thread; raise what a job raised.

        While the workers are busy for another thread, this one does all jobs itself. After Ctrl-C
        they may still be at work: they are not used again.
        """
        if not self._busy.acquire(blocking=False):
            return [job() for job in jobs]
        try:
            while len(self._workers) < len(jobs) - 1:
                self._workers.append(_Worker())
            workers, self._workers = self._workers, []
            helpers = workers[: len(jobs) - 1]
            for helper, job in zip(helpers, jobs[1:], strict=True):
                helper.start(job)
            try:
                results = [jobs[0]()]
            finally:
                outcomes = [helper.outcome() for helper in helpers]
                self._workers = workers
        finally:
            self._busy.release()
        for result, error in outcomes:
            if error is not None:
                raise error
            results.append(result)
        return results


def _idle() -> None:
    """Do nothing: the job of a worker that has none."""


class _Worker:
    """A thread that does one job after another."""

    def __init__(self) -> None:
        self._begin, self._end = threading.Lock(), threading.Lock()
        self._begin.acquire()
        self._end.acquire()
        self._job: Callable[[], Any] = _idle
        self._outcome: tuple[Any, BaseException | None] = None, None
        threading.Thread(target=self._work, name="npbn", daemon=True).start()

    def start(self, job: Callable[[], Any]) -> None:
        self._job = job
        self._begin.release()

    def outcome(self) -> tuple[Any, BaseException | None]:
        self._end.acquire()
        outcome, self._outcome = self._outcome, (None, None)  # keep no arrays alive
        return outcome

    def _work(self) -> None:
        while True:
            self._begin.acquire()
            job, self._job = self._job, _idle
            try:
                self._outcome = job(), None
            except BaseException as error:  # raised in the thread that has called `run`
                self._outcome = None, error
            del job
            self._end.release()
