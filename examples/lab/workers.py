"""Trials on all cores, a process each, one BLAS thread in every one of them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import npbn
from examples.lab.drawing import render
from examples.lab.experiment import Digits, Record, Trial, experiment

_digits: Digits  # of this worker


class Workers:
    """A pool of processes, one for each core; a ``with`` statement ends them at once.

    Parameters
    ----------
    data : str
        The folder of the data set, which every process reads once.
    engine : str
        The engine of npbn in every process.
    """

    def __init__(self, data: str, engine: str):
        self._pool = ProcessPoolExecutor(
            cores(),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(data, engine),
        )

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()

    def run(self, jobs: Iterable[tuple[str, Trial]]) -> Iterator[tuple[str, Trial, dict[str, Any]]]:
        """Run trials, given with the names of their experiments; yield each as it is done."""
        with _no_interrupt():  # the processes start here
            futures = {self._pool.submit(_run, name, trial): (name, trial) for name, trial in jobs}
        for future in as_completed(futures):
            name, trial = futures[future]
            try:
                yield name, trial, future.result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "a worker process was killed (out of memory?); the same command goes on from "
                    "here"
                ) from error
            except Exception as error:
                raise RuntimeError(f"{name} failed in the trial {trial}: {error!r}") from error

    def draw(self, name: str, records: list[Record]) -> Any:
        """Begin to draw an experiment; the future returned has its rendered pictures."""
        with _no_interrupt():  # a process may start here
            return self._pool.submit(render, name, records)


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Put Ctrl-C off; processes that start here never see it, since it is the parent's affair."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(data: str, engine: str) -> None:
    """Prepare a worker."""
    global _digits
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(1)
    npbn.set_num_threads(1)
    npbn.set_engine(engine)
    _digits = Digits.read(data)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # which may be killed
    os._exit(1)


def _run(name: str, trial: Trial) -> dict[str, Any]:
    with np.errstate(all="ignore"):  # networks that diverge are part of the matter
        return experiment(name).run(trial, _digits)
