"""Running statistics are put back if a forward pass fails after some of them have moved.

A layer checks its input before it changes anything. In a network the layers before it have tracked
the batch by then, and a loss refuses a target after all of them have.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class _Recording(threading.local):
    """The changes of arrays in this thread, as (array, former values); None without `restoring`."""

    changes: list[tuple[np.ndarray, np.ndarray]] | None = None


recording = _Recording()


def restoring(function: Callable[..., T], *arguments: Any) -> T:
    """Return ``function(*arguments)``; if it raises, undo the changes recorded meanwhile.

    Who changes an array adds it, with its former values, to ``recording.changes``, unless that is
    None. Calls may be nested: each undoes its own part.
    """
    changes = recording.changes
    outermost = changes is None
    if changes is None:
        changes = recording.changes = []
    start = len(changes)
    try:
        return function(*arguments)
    except BaseException:  # Ctrl-C too
        while len(changes) > start:
            array, values = changes.pop()
            array[...] = values
        raise
    finally:
        if outermost:
            recording.changes = None
