"""The patches of images, compiled; what they are, :mod:`npbn.engines.numpy_.patches` says.

A channel of one sample is copied with its padding, which the first-level cache holds, and every
tap's rows from there: of 3x3 kernels at (64, 16, 28, 28) in half the time that rows take which are
cut at the image's edges (Zen 2). Threads take ranges of channels.
"""

import numpy as np

from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.padding import inside, seen
from npbn.engines.numba_.ranges import large, over_ranges
from npbn.engines.windows import Windows


def gather(x: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Return the patches of images (N, C, H, W), as (C, kh, kw, N, rows, columns)."""
    samples, channels = x.shape[:2]
    shape = channels, rows.kernel, columns.kernel, samples, rows.count, columns.count
    patches = np.empty(shape, x.dtype)
    _over_channels(_gather, (x, rows, columns), patches)
    return patches


def scatter(patches: np.ndarray, rows: Windows, columns: Windows, x: np.ndarray) -> None:
    """Add patches to the images `x`, in place, each number where :func:`gather` takes it from."""
    _over_channels(_scatter, (x, rows, columns), patches)


def _over_channels(loops, arguments, patches):
    if large(patches):
        over_ranges(loops, len(patches), arguments, (patches,))
    else:
        loops(*arguments, 0, len(patches), patches)


@compiled
def _gather(x, rows, columns, first, last, patches):
    padded = _padded(x, rows, columns)
    top, down, height = inside(rows)
    left, across, width = inside(columns)
    for c in range(first, last):
        for n in range(len(x)):
            for r in range(height):
                _copy(x[n, c, down + r, across:], padded[top + r, left : left + width], 1)
            for i in range(rows.kernel):
                for j in range(columns.kernel):
                    taps = patches[c, i, j, n]
                    for r in range(rows.count):
                        line = padded[r * rows.stride + i * rows.dilation, j * columns.dilation :]
                        _copy(line, taps[r], columns.stride)


@compiled
def _scatter(x, rows, columns, first, last, patches):
    padded = _padded(x, rows, columns)
    top, down, height = inside(rows)
    left, across, width = inside(columns)
    for c in range(first, last):
        for n in range(len(x)):
            padded[:] = 0.0
            for i in range(rows.kernel):
                for j in range(columns.kernel):
                    taps = patches[c, i, j, n]
                    for r in range(rows.count):
                        line = padded[r * rows.stride + i * rows.dilation, j * columns.dilation :]
                        _add(taps[r], line, columns.stride)
            for r in range(height):
                _add(padded[top + r, left : left + width], x[n, c, down + r, across:], 1)


@compiled
def _padded(x, rows, columns):
    """Return zeros for what the windows see of one channel."""
    return np.zeros((seen(rows), seen(columns)), x.dtype)


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
