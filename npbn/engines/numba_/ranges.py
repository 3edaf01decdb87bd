"""Threads: each takes a range of channels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.threads import get_num_threads, share

# Arrays of so many bytes are worth several threads.
LARGE = 512 * 1024


def large(x: np.ndarray) -> bool:
    """Return whether a pass over `x` is shared out among the threads."""
    return x.nbytes >= LARGE


def over_ranges(
    loops: Callable, count: int, arguments: tuple[Any, ...], results: tuple[np.ndarray, ...]
) -> None:
    """Call ``loops(*arguments, first, last, *results)`` for as many ranges as there are threads."""
    ranges = min(get_num_threads(), count)
    cuts = [count * i // ranges for i in range(ranges + 1)]
    share(loops, [(*arguments, *cuts[i : i + 2], *results) for i in range(ranges)])
