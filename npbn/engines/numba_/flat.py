"""Elementwise loops over arrays as vectors, in the order of their elements in memory."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.numba_.ranges import over_ranges
from npbn.engines.threads import large


def flat(*arrays: np.ndarray) -> list[np.ndarray] | None:
    """Return the arrays as vectors of corresponding elements, views of the same memory.

    None if no loop is compiled for them: they have to be float32 or float64 of one dtype, C- or
    Fortran-contiguous with the same strides, aligned, and writeable.
    """
    first = arrays[0]
    dtype, strides = first.dtype, first.strides
    if dtype.char not in "fd":
        return None
    for array in arrays:
        flags = array.flags
        if not (flags.forc and flags.behaved and array.strides == strides and array.dtype == dtype):
            return None
    return [array.ravel("K") for array in arrays]


def over_elements(
    loops: Callable[..., Any], arguments: tuple[Any, ...], results: tuple[np.ndarray, ...]
) -> None:
    """Call ``loops(*arguments, first, last, *results)``, in threads for large results."""
    over_ranges(large(results[0]), loops, len(results[0]), arguments, results)
