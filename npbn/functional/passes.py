"""Passes over (N, C, ...) arrays with (C,) vectors: in blocks, and along long inner loops."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from npbn.functional.threads import share
from npbn.functional.tuning import (
    BLOCK_BYTES,
    LANES,
    LOOP,
    PARTIAL,
    PIECE,
    REPEATED,
    THREADED_BYTES,
)

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
    rows = max(BLOCK_BYTES * len(x) // x.nbytes, 1)
    rows -= rows % PARTIAL if rows > PARTIAL else 0
    starts = range(0, len(x), rows)
    blocks = [(*(a[start : start + rows] for a in arrays), *vectors) for start in starts]
    if x.nbytes < THREADED_BYTES:
        return [work(*block) for block in blocks]
    return share(work, blocks)


def along_lanes(
    work: Callable[..., T], arrays: tuple[np.ndarray, ...], vectors: tuple[np.ndarray, ...]
) -> list[T]:
    """Sweep `work` over C-contiguous arrays, with (C,) vectors in their dtype, to broadcast.

    A large matrix (N, C) is viewed as (N / r, r · C), its vectors repeated r times, so that the
    inner loop is LOOP numbers long, if N can be divided so. With more axes a sample is a row, the
    vectors repeated for every position; of a few samples the positions are the inner loop.
    """
    x = arrays[0]
    vectors = [vector.astype(x.dtype, copy=False) for vector in vectors]
    if _joins(x):
        vectors = [np.repeat(vector, math.prod(x.shape[2:])) for vector in vectors]
        arrays = [_joined(array) for array in arrays]
    elif x.ndim > 2:
        vectors = [per_channel(vector, x.ndim) for vector in vectors]
    elif x.size > REPEATED:
        repeats = math.gcd(len(x), 1 << (-(-LOOP // x.shape[1]) - 1).bit_length())
        vectors = [_repeated(vector, repeats) for vector in vectors]
        arrays = [array.reshape(-1, vectors[0].size) for array in arrays]
    return sweep(work, arrays, vectors)


def _joins(x: np.ndarray) -> bool:
    """Tell whether to take (N, C, ...) as (N, C · positions), with vectors as long as a row.

    A product with a vector then takes 49 µs a MB at (32, 64, 28, 28) instead of 116. A few samples
    are not worth vectors of their own size.
    """
    return x.ndim > 2 and len(x) >= PARTIAL


def _joined(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _repeated(vector: np.ndarray, repeats: int) -> np.ndarray:
    tile = np.empty((repeats, len(vector)), vector.dtype)  # np.tile does this in thrice the time
    tile[...] = vector
    return tile.reshape(-1)


# -- sums -------------------------------------------------------------------------------------


def channel_sums(x: np.ndarray) -> np.ndarray:
    """Sum a C-contiguous ``(N, C, ...)`` array over all axes but 1, into (C,) float64.

    Of (N, C), partial sums of PARTIAL rows are taken in x's dtype and summed in float64; with more
    axes those of some positions (:func:`_position_sums`).
    """
    if x.ndim > 2:
        sums = _sum_rows(_position_sums(x))
        return np.add.reduce(sums.reshape(x.shape[1], -1), axis=1)
    whole = len(x) - len(x) % PARTIAL
    partial = ones(PARTIAL, x.dtype) @ x[:whole].reshape(PARTIAL, -1)
    sums = _sum_rows(partial.reshape(-1, x.shape[1]))
    return sums if whole == len(x) else sums + _sum_rows(x[whole:])


def channel_dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum x · y as :func:`channel_sums` sums x, by half as many rows: a product rounds too."""
    if x.ndim > 2:
        sums = _sum_rows(_position_sums(x, y))
        return np.add.reduce(sums.reshape(x.shape[1], -1), axis=1)
    rows = PARTIAL // 2
    whole = len(x) - len(x) % rows
    pair = (x[:whole].reshape(rows, -1), y[:whole].reshape(rows, -1))
    sums = _sum_rows(np.einsum("ij,ij->j", *pair).reshape(-1, x.shape[1]))
    return sums if whole == len(x) else sums + _sum_rows(x[whole:] * y[whole:])


def _position_sums(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Sum x, or x · y, (N, C, ...), over pieces of the positions in x's dtype, into (N, C · k).

    float32 by BLAS, whose vector units sum 8 numbers or more side by side, in k pieces of at most
    PIECE. Otherwise, and where the positions cannot be divided so, all of them by NumPy, in pairs.
    """
    samples, channels = x.shape[:2]
    positions = math.prod(x.shape[2:])
    piece = _largest_divisor(positions, PIECE)
    if x.dtype != np.float32 or piece < LANES:
        return np.add.reduce(x if y is None else x * y, axis=tuple(range(2, x.ndim)))
    shape = (x.size // piece, piece)
    x = x.reshape(shape)
    sums = x @ ones(piece, x.dtype) if y is None else np.vecdot(x, y.reshape(shape))
    return sums.reshape(samples, channels * positions // piece)


@lru_cache(maxsize=64)
def _largest_divisor(number: int, limit: int) -> int:
    return max((d for d in range(1, limit + 1) if number % d == 0), default=1) if number else 0


def centred_sums(
    x: np.ndarray, shift: np.ndarray, centred: np.ndarray, y: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Σ y and Σ y · (x − shift) of every channel in float64, and x − shift.

    Without `y`, that is x − shift too. It is written to `centred`, unless shift is 0: then it is x
    itself that comes back.
    """
    if x.size == 0:
        return np.zeros(x.shape[1]), np.zeros(x.shape[1]), x
    if np.count_nonzero(shift) == 0:
        y = x if y is None else y
        sums = sweep(lambda x, y: (channel_sums(y), channel_dots(y, x)), (x, y))
        return *_total(sums), x

    def work(
        x: np.ndarray, centred: np.ndarray, y: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        np.subtract(x, vector, out=centred)
        centred, y = centred.reshape(-1, *sample), y.reshape(-1, *sample)  # as it was
        return channel_sums(y), channel_dots(y, centred)

    sample = x.shape[1:]
    sums = along_lanes(work, (x, centred, centred if y is None else y), (shift,))
    return *_total(sums), centred


def _total(blocks: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(blocks) == 1:
        return blocks[0]
    sums, dots = zip(*blocks, strict=True)
    return reduce(np.add, sums), reduce(np.add, dots)


def wide_sums(wide: np.ndarray) -> np.ndarray:
    """Sum a C-contiguous float64 array over all axes but 1, where it has digits to spare."""
    if wide.ndim > 2:
        rows = wide.reshape(wide.shape[0] * wide.shape[1], math.prod(wide.shape[2:]))
        wide = (rows @ ones(rows.shape[1])).reshape(wide.shape[:2])
    return ones(len(wide)) @ wide


def ones(count: int, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Return a vector of ones, not to be written to: short ones are shared."""
    return _constant(1, count, dtype) if count <= LOOP else np.ones(count, dtype)


def zeros(count: int, dtype: DTypeLike) -> np.ndarray:
    """Return a vector of zeros, not to be written to: short ones are shared."""
    return _constant(0, count, dtype) if count <= LOOP else np.zeros(count, dtype)


@lru_cache(maxsize=64)
def _constant(value: int, count: int, dtype: DTypeLike) -> np.ndarray:
    vector = np.full(count, value, dtype)
    vector.flags.writeable = False
    return vector


def _sum_rows(rows: np.ndarray) -> np.ndarray:
    """Sum over axis 0 into float64; float64 rows as if with digits to spare.

    Those are cut into multiples of a unit so large that their sum is exact, and what is left over,
    2⁻⁵³ of it. S. Rump, T. Ogita and S. Oishi, "Accurate floating-point summation part I", 2008,
    algorithm 3.2 (ExtractVector).
    """
    one = ones(len(rows))
    if rows.dtype != np.float64:
        return one @ rows.astype(np.float64)
    _, exponent = np.frexp(one @ np.abs(rows))
    unit = np.ldexp(1.0, exponent + 1)
    multiples = rows + unit
    multiples -= unit
    total = one @ multiples + one @ (rows - multiples)
    return np.where(np.isfinite(total), total, one @ rows)


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
