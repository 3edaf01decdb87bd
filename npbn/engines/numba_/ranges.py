"""Threads: each takes a range of a large array, of its channels say."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npbn.engines.threads import get_num_threads, share

# Arrays of so many bytes are worth several threads.
LARGE = 512 * 1024


class Channels(NamedTuple):
    """Some channels of an array (N, C) or (N, C, P)."""

    whole: np.ndarray
    first: int
    last: int


def large(x: np.ndarray) -> bool:
    """Return whether the work on `x` is shared out among several threads."""
    return x.nbytes >= LARGE and get_num_threads() > 1


def over_ranges(
    loops: Callable, count: int, arguments: tuple[Any, ...], results: tuple[np.ndarray, ...]
) -> None:
    """Call ``loops(*arguments, first, last, *results)`` for as many ranges as there are threads."""
    ranges = min(get_num_threads(), count)
    cuts = [count * i // ranges for i in range(ranges + 1)]
    share(loops, [(*arguments, *cuts[i : i + 2], *results) for i in range(ranges)])


def channel_ranges(arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Cut arguments by channels, for as many threads as there are.

    Arrays with as many samples as the first become :class:`Channels`; vectors, whose last axis is
    C, are cut; anything else stays.
    """
    shape = arguments[0].shape
    channels = shape[1]
    ranges = min(get_num_threads(), channels)
    cuts = [channels * i // ranges for i in range(ranges + 1)]
    return [
        tuple(_cut(argument, shape, first, last) for argument in arguments)
        for first, last in pairwise(cuts)
    ]


def _cut(argument: Any, shape: tuple[int, ...], first: int, last: int) -> Any:
    if not isinstance(argument, np.ndarray):
        return argument
    if argument.shape == shape:
        return Channels(argument, first, last)
    return argument[..., first:last]
