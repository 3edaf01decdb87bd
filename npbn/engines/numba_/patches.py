"""The patches of images, compiled; :mod:`npbn.engines.numpy_.patches` documents them.

The pixels under a column of taps are first collected, with padding, for one channel of one sample.
The pixels under each tap of that column are rows of them, which are contiguous with stride 1.
Threads take ranges of channels.
"""

import numpy as np

from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.padding import inside, seen, tap
from npbn.engines.numba_.ranges import large_of_slow, over_ranges
from npbn.engines.windows import Windows


def gather(x: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Return the patches of images (N, C, H, W), as (C, kh, kw, N, rows, columns)."""
    samples, channels = x.shape[:2]
    shape = channels, rows.kernel, columns.kernel, samples, rows.count, columns.count
    patches = np.empty(shape, x.dtype)
    _over_channels(_gather, (x, tuple(rows), tuple(columns)), patches)
    return patches


def scatter(patches: np.ndarray, rows: Windows, columns: Windows, x: np.ndarray) -> None:
    """Add patches to the images `x`, in place, each number where :func:`gather` reads it."""
    _over_channels(_scatter, (x, tuple(rows), tuple(columns)), patches)


def _over_channels(loops, arguments, patches):
    # Windows are passed as tuples: a call with a NamedTuple takes 10 µs, with a tuple 5.
    flat = patches.reshape(*patches.shape[:4], -1)
    over_ranges(large_of_slow(patches), loops, len(patches), arguments, (flat,))


@compiled
def _gather(x, rows, columns, first, last, patches):
    rows, columns = Windows(*rows), Windows(*columns)
    top, down, height = inside(rows)
    width = columns.count
    seen_rows = np.empty(seen(rows) * width, x.dtype)
    pieces, length = _pieces(rows, width)
    for j in range(columns.kernel):
        left, right, start = tap(columns, j)
        seen_rows[:] = 0.0
        for c in range(first, last):
            for n in range(len(x)):
                for r in range(height):
                    line = seen_rows[(top + r) * width + left : (top + r) * width + right]
                    _copy(x[n, c, down + r, start:], line, columns.stride)
                for i in range(rows.kernel):
                    taps = patches[c, i, j, n]
                    for k in range(pieces):
                        begin = (i * rows.dilation + k * rows.stride) * width
                        _copy(seen_rows[begin:], taps[k * length : (k + 1) * length], 1)


@compiled
def _scatter(x, rows, columns, first, last, patches):
    rows, columns = Windows(*rows), Windows(*columns)
    top, down, height = inside(rows)
    width = columns.count
    seen_rows = np.empty(seen(rows) * width, x.dtype)
    pieces, length = _pieces(rows, width)
    for j in range(columns.kernel):
        left, right, start = tap(columns, j)
        for c in range(first, last):
            for n in range(len(x)):
                seen_rows[:] = 0.0
                for i in range(rows.kernel):
                    taps = patches[c, i, j, n]
                    for k in range(pieces):
                        begin = (i * rows.dilation + k * rows.stride) * width
                        _add(taps[k * length : (k + 1) * length], seen_rows[begin:], 1)
                for r in range(height):
                    line = seen_rows[(top + r) * width + left : (top + r) * width + right]
                    _add(line, x[n, c, down + r, start:], columns.stride)


@compiled
def _pieces(rows, width):
    """Return the number of contiguous pieces of the pixels under a tap, and their length."""
    return (1, rows.count * width) if rows.stride == 1 else (rows.count, width)


@compiled
def _copy(source, target, stride):
    if stride == 1:
        for i in range(len(target)):
            target[i] = source[i]
    else:
        for i in range(len(target)):
            target[i] = source[i * stride]


@compiled
def _add(source, target, stride):
    if stride == 1:
        for i in range(len(source)):
            target[i] += source[i]
    else:
        for i in range(len(source)):
            target[i * stride] += source[i]
