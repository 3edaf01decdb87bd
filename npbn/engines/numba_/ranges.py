"""Threads: each takes a range of a large array, for instance of its channels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.threads import get_num_threads, share

# Arrays of this size, in bytes, or larger are worked on by several threads.
LARGE = 512 * 1024


def large(x: np.ndarray) -> bool:
    """Return whether several threads work on `x`."""
    return x.nbytes >= LARGE and get_num_threads() > 1


def over_ranges(
    loops: Callable[..., Any],
    count: int,
    arguments: tuple[Any, ...],
    results: tuple[np.ndarray, ...],
) -> None:
    """Call ``loops(*arguments, first, last, *results)`` for a range of `count` in each thread."""
    ranges = min(get_num_threads(), count)
    cuts = [count * i // ranges for i in range(ranges + 1)]
    share(loops, [(*arguments, *cuts[i : i + 2], *results) for i in range(ranges)])
