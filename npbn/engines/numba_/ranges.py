"""Threads: each takes a range of a large array, for instance of its channels."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npbn.engines.threads import get_num_threads, share

# Arrays of this size, in bytes, or larger are worked on by several threads.
LARGE = 512 * 1024


class Channels(NamedTuple):
    """A range of channels of an array (N, C) or (N, C, P)."""

    whole: np.ndarray
    first: int
    last: int


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


def channel_ranges(arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Cut arguments by channels into a part for each thread.

    Arrays of the shape of the first become :class:`Channels`; others, whose last axis is C, are
    cut; what is no array is passed as it is.
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
