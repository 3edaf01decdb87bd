"""Max pooling, compiled; :mod:`npbn.engines.numpy_.max_pooling` documents it.

Images are copied with their padding and split into parts: pixels whose distance along both axes is
a multiple of the stride are in the same part. A tap of all windows of several images is then
contiguous in memory, and its loop is vectorised: the maxima of (64, 16, 28, 28), kernel 2, take
0.83 ms and their gradient 1.4 ms; window by window they take 3.0 and 6.4 ms (Zen 2). Threads take
ranges of images.
"""

import numpy as np

from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.padding import inside, seen
from npbn.engines.numba_.ranges import large_of_slow, over_ranges
from npbn.engines.windows import Windows

# Pixels of the images in one group, which is in the second-level cache: the maxima of (64, 32, 14,
# 14), kernel 2, and their gradient take 0.49 and 0.80 ms with 2,048, 0.41 and 0.71 with 16,384
# (Zen 2).
PIXELS = 16384


def max_pool(x: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Return the maximum of each window of images (P, H, W)."""
    y = np.empty((len(x), rows.count, columns.count), x.dtype)
    _over_images(_maxima, x, (x, tuple(rows), tuple(columns)), y)
    return y


def max_pool_backward(
    grad: np.ndarray, x: np.ndarray, rows: Windows, columns: Windows
) -> np.ndarray:
    """Return the gradient of x: each window's goes to its first maximum, or else its last NaN."""
    grad_x = np.zeros(x.shape, grad.dtype)
    _over_images(_gradient, x, (grad, x, tuple(rows), tuple(columns)), grad_x)
    return grad_x


def _over_images(loops, x, arguments, result):
    # Windows are passed as tuples: a call with a NamedTuple takes 10 µs, with a tuple 5.
    over_ranges(large_of_slow(x), loops, len(x), arguments, (result,))


@compiled
def _maxima(x, rows, columns, first, last, y):
    rows, columns = Windows(*rows), Windows(*columns)
    parts = _parts(x[first:last], rows, columns)
    several = parts.shape[2]
    maxima = np.empty(parts.shape[2:], x.dtype)
    for p in range(first, last, several):
        images, out = x[p : min(p + several, last)], y[p : min(p + several, last)]
        _split(images, rows, columns, parts)
        flat = maxima.reshape(-1)
        flat[:] = -np.inf
        for i in range(rows.kernel):
            for j in range(columns.kernel):
                _take_larger(_tap(parts, rows, columns, i, j), flat)
        for n in range(len(out)):
            for r in range(rows.count):
                for c in range(columns.count):
                    out[n, r, c] = maxima[n, r, c]


@compiled
def _gradient(grad, x, rows, columns, first, last, grad_x):
    rows, columns = Windows(*rows), Windows(*columns)
    parts = _parts(x[first:last], rows, columns)
    several = parts.shape[2]
    maxima = np.empty(parts[0, 0].size, x.dtype)
    where = np.empty(parts.shape[2:], np.int32)  # the tap that has the maximum
    offsets = np.empty(rows.kernel * columns.kernel, np.int64)
    for p in range(first, last, several):
        images = x[p : min(p + several, last)]
        _split(images, rows, columns, parts)
        maxima[:] = -np.inf
        flat = where.reshape(-1)
        flat[:] = -1
        for i in range(rows.kernel):
            for j in range(columns.kernel):
                tap = np.int32(i * columns.kernel + j)
                offsets[tap] = i * rows.dilation * columns.size + j * columns.dilation
                _take_where_larger(_tap(parts, rows, columns, i, j), tap, maxima, flat)
        for n in range(len(images)):
            _give(grad[p + n], where[n], offsets, rows, columns, grad_x[p + n].reshape(-1))


@compiled
def _parts(x, rows, columns):
    """Return −inf for the parts of several images, (stride, stride, images, height, width)."""
    down, across = rows.stride, columns.stride
    height, width = (seen(rows) + down - 1) // down, (seen(columns) + across - 1) // across
    several = max(min(PIXELS // (down * across * height * width), len(x)), 1)
    return np.full((down, across, several, height, width), x.dtype.type(-np.inf))


@compiled
def _split(images, rows, columns, parts):
    for a in range(rows.stride):
        r, y, height = _every(rows, a)
        for b in range(columns.stride):
            c, x, width = _every(columns, b)
            for n in range(len(images)):
                source = images[n, y :: rows.stride, x :: columns.stride]
                target = parts[a, b, n, r : r + height, c : c + width]
                for i in range(height):
                    for j in range(width):
                        target[i, j] = source[i, j]


@compiled
def _every(axis, k):
    """Return the start of the input in part k, its first position there, and its length."""
    start, skipped, length = inside(axis)
    begin = (k - start) % axis.stride
    count = (length - begin + axis.stride - 1) // axis.stride
    return (start + begin) // axis.stride, skipped + begin, count


@compiled
def _tap(parts, rows, columns, i, j):
    """Return the pixels under tap (i, j) of all windows, with others between two rows."""
    y, x = i * rows.dilation, j * columns.dilation
    part = parts[y % rows.stride, x % columns.stride].reshape(-1)
    return part[y // rows.stride * parts.shape[4] + x // columns.stride :]


@compiled
def _take_larger(values, maxima):
    for k in range(len(values)):
        maxima[k] = np.maximum(maxima[k], values[k])


@compiled
def _take_where_larger(values, tap, maxima, where):
    # Written so that it is not compiled to masked stores, which take 20 times as long.
    for k in range(len(values)):
        value, maximum = values[k], maxima[k]
        larger = (value > maximum) | (value != value)  # or NaN
        maxima[k] = np.maximum(maximum, value)
        where[k] = max(where[k], tap if larger else np.int32(-1))


@compiled
def _give(grad, where, offsets, rows, columns, grad_x):
    for r in range(rows.count):
        y = r * rows.stride - rows.before
        for c in range(columns.count):
            x = c * columns.stride - columns.before
            if where[r, c] >= 0:
                offset = offsets[where[r, c]]
            else:  # all are -inf
                down, across = _first_inside(rows, y), _first_inside(columns, x)
                if y + down >= rows.size or x + across >= columns.size:
                    continue
                offset = down * columns.size + across
            grad_x[y * columns.size + x + offset] += grad[r, c]


@compiled
def _first_inside(axis, start):
    """Return the distance from a window's first tap to the first that is not before the input."""
    return max(-(start // axis.dilation), 0) * axis.dilation
