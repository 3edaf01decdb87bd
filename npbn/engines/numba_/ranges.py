"""Threads: each takes a range of a large array, for instance of its channels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.threads import get_num_threads, share

# As npbn.engines.threads.LARGE, where a number takes longer: windows, exponentials. Max pooling of
# 3.2 MB in two threads relative to one: 1.4.
LARGE_OF_SLOW = 512 * 1024


def large_of_slow(x: np.ndarray) -> bool:
    """Return whether several threads work on `x` in loops that are slow for a number."""
    return x.nbytes >= LARGE_OF_SLOW and get_num_threads() > 1


def over_ranges(
    threaded: bool,
    loops: Callable[..., Any],
    count: int,
    arguments: tuple[Any, ...],
    results: tuple[np.ndarray, ...],
) -> None:
    """Call ``loops(*arguments, first, last, *results)`` for `count`, or a range of it by thread."""
    if not threaded:
        loops(*arguments, 0, count, *results)
        return
    ranges = min(get_num_threads(), count)
    cuts = [count * i // ranges for i in range(ranges + 1)]
    share(loops, [(*arguments, *cuts[i : i + 2], *results) for i in range(ranges)])
