"""Passes over (N, C, ...) arrays with (C,) vectors: in blocks, and along long inner loops."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import TypeVar

import numpy as np

from npbn.functional.threads import share
from npbn.functional.tuning import BLOCK_BYTES, LOOP, PARTIAL, REPEATED, THREADED_BYTES

T = TypeVar("T")


def per_channel(values: np.ndarray, ndim: int) -> np.ndarray:
    """View ``(C,)`` values so that they broadcast against an ``(N, C, ...)`` array."""
    return values.reshape(-1, *(1,) * (ndim - 2))


def sweep(
    work: Callable[..., T], arrays: Sequence[np.ndarray], vectors: Sequence[np.ndarray] = ()
) -> list[T]:
    """Return the results of `work` on blocks of the arrays' rows, in order; large ones in threads.

    Arrays of up to BLOCK_BYTES are one block. The vectors are handed to each.
    """
    x = arrays[0]
    if x.nbytes <= BLOCK_BYTES:
        return [work(*arrays, *vectors)]
    rows = max(BLOCK_BYTES * len(x) // x.nbytes // PARTIAL, 1) * PARTIAL
    starts = range(0, len(x), rows)
    blocks = [(*(a[start : start + rows] for a in arrays), *vectors) for start in starts]
    if x.nbytes < THREADED_BYTES:
        return [work(*block) for block in blocks]
    return share(work, blocks)


def along_lanes(
    work: Callable[..., None], arrays: tuple[np.ndarray, ...], vectors: tuple[np.ndarray, ...]
) -> None:
    """Call `work` with C-contiguous arrays and the (C,) vectors in their dtype, to broadcast.

    A large matrix (N, C) is viewed as (N / r, r · C), its vectors repeated r times, so that the
    inner loop is LOOP numbers long, if N can be divided so. With more axes the positions are
    the inner loop.
    """
    x = arrays[0]
    vectors = [vector.astype(x.dtype, copy=False) for vector in vectors]
    if x.ndim > 2:
        vectors = [per_channel(vector, x.ndim) for vector in vectors]
    elif x.size > REPEATED:
        repeats = math.gcd(len(x), 1 << (-(-LOOP // x.shape[1]) - 1).bit_length())
        vectors = [np.tile(vector, repeats) for vector in vectors]
        arrays = [array.reshape(-1, vectors[0].size) for array in arrays]
    sweep(work, arrays, vectors)


# -- sums -------------------------------------------------------------------------------------


def channel_sums(x: np.ndarray) -> np.ndarray:
    """Sum a C-contiguous ``(N, C, ...)`` array over all axes but 1, into (C,) float64.

    Of (N, C), partial sums of PARTIAL rows are taken in x's dtype and summed in float64. With
    more axes NumPy sums those by pairs, in x's dtype, and float64 takes over.
    """
    if x.ndim > 2:
        return _sum_rows(np.add.reduce(x, axis=tuple(range(2, x.ndim))))
    whole = len(x) - len(x) % PARTIAL
    partial = ones(PARTIAL, x.dtype) @ x[:whole].reshape(PARTIAL, -1)
    sums = _sum_rows(partial.reshape(-1, x.shape[1]))
    return sums if whole == len(x) else sums + _sum_rows(x[whole:])


def channel_dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum x · y as :func:`channel_sums` sums x."""
    if x.ndim > 2:
        return channel_sums(x * y)
    whole = len(x) - len(x) % PARTIAL
    pair = (x[:whole].reshape(PARTIAL, -1), y[:whole].reshape(PARTIAL, -1))
    sums = _sum_rows(np.einsum("ij,ij->j", *pair).reshape(-1, x.shape[1]))
    return sums if whole == len(x) else sums + _sum_rows(x[whole:] * y[whole:])


def sums_and_dots(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ x and Σ x · y of every channel, in float64."""
    blocks = sweep(lambda x, y: (channel_sums(x), channel_dots(x, y)), (x, y))
    if len(blocks) == 1:
        return blocks[0]
    sums, dots = zip(*blocks, strict=True)
    return reduce(np.add, sums), reduce(np.add, dots)


@lru_cache(maxsize=64)
def ones(count: int, dtype: np.dtype = np.float64) -> np.ndarray:
    """Return a vector of ones, which is shared and cannot be written to."""
    vector = np.ones(count, dtype)
    vector.flags.writeable = False
    return vector


@lru_cache(maxsize=8)
def zeros(count: int, dtype: np.dtype) -> np.ndarray:
    """Return a vector of zeros, which is shared and cannot be written to."""
    vector = np.zeros(count, dtype)
    vector.flags.writeable = False
    return vector


def _sum_rows(rows: np.ndarray) -> np.ndarray:
    if rows.dtype == np.float64:  # side by side in memory NumPy adds them by pairs
        return np.add.reduce(np.ascontiguousarray(rows.T), axis=1)
    return ones(len(rows)) @ rows.astype(np.float64)


# -- elementwise ------------------------------------------------------------------------------


def subtract(x: np.ndarray, vector: np.ndarray, out: np.ndarray) -> None:
    """Write x − vector to `out`."""
    along_lanes(_subtract, (x, out), (vector,))


def scale(x: np.ndarray, vector: np.ndarray, out: np.ndarray) -> None:
    """Write x · vector to `out`."""
    along_lanes(_scale, (x, out), (vector,))


def scale_shift(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """Write x · scale + shift to `out`, which may be x."""
    along_lanes(_scale_shift, (x, out), (scale, shift))


def combine(
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray
) -> None:
    """Write a · x + b · y + c to `out`, which may be y."""
    along_lanes(_combine, (x, y, out), (a, b, c))


def _subtract(x: np.ndarray, out: np.ndarray, vector: np.ndarray) -> None:
    np.subtract(x, vector, out)


def _scale(x: np.ndarray, out: np.ndarray, vector: np.ndarray) -> None:
    np.multiply(x, vector, out)


def _scale_shift(x: np.ndarray, out: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
    np.multiply(x, scale, out)
    np.add(out, shift, out)


def _combine(
    x: np.ndarray, y: np.ndarray, out: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    np.multiply(y, b, out)
    np.add(out, c, out)
    np.add(out, x * a, out)
