"""What a contender hands over to be timed, and why it may be refused."""

from collections.abc import Callable
from itertools import repeat
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np


class Task(NamedTuple):
    """One piece of work, ready to run.

    Attributes
    ----------
    run : callable
        Does the work once: this is what is timed.
    read : callable or None
        From what `run` returned to its results by name, as NumPy arrays, to be proved. A floor,
        which does less than the work, has none.
    note : str
        What a reader of the timings should know of it.
    """

    run: Callable[[], Any]
    read: Callable[[Any], dict[str, np.ndarray]] | None
    note: str = ""


class SkipError(Exception):
    """The contender cannot do this work, and says why."""


class WrongError(Exception):
    """The contender's result is not right."""


def timed(task: Task, times: int) -> float:
    """Return the mean seconds of a run."""
    run = task.run
    start = perf_counter()
    for _ in repeat(None, times):
        run()
    return (perf_counter() - start) / times
