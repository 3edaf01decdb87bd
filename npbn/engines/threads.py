"""One pool of threads, shared, for large arrays alone.

NumPy lets go of the interpreter lock inside its loops, so that blocks of one array can be worked
on at the same time. Results are the same, bit for bit, for any number of threads: the blocks are.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

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

    It is for npbn's own loops over arrays of 8 MB and more; smaller ones take one thread
    whatever is set here. The matrix products are NumPy's BLAS's, which has threads of its own
    (OPENBLAS_NUM_THREADS, or the package threadpoolctl).

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
    runs = [parts[start:stop] for start, stop in pairwise(cuts)]
    # The process's number: a forked child has the pool's locks, but none of its threads.
    pool = _pool(threads - 1, os.getpid())
    waiting = [pool.submit(_run, work, run) for run in runs[1:]]
    results = _run(work, runs[0])
    for future in waiting:
        results += future.result()
    return results


@np.errstate(all="ignore")  # each thread has its own
def _run(work: Callable[..., T], parts: list[tuple]) -> list[T]:
    return [work(*part) for part in parts]


@lru_cache(maxsize=1)
def _pool(workers: int, process: int) -> "ThreadPoolExecutor":
    from concurrent.futures import ThreadPoolExecutor  # 5 ms, which most programs need not pay

    return ThreadPoolExecutor(workers, thread_name_prefix="npbn")
