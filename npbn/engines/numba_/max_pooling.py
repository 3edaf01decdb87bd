"""Max pooling, compiled; what it computes, :mod:`npbn.engines.numpy_.max_pooling` says.

Threads take ranges of images.
"""

import numpy as np

from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.ranges import large, over_ranges
from npbn.engines.windows import Windows


def max_pool(x: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Return the maximum of each window of images (P, H, W)."""
    y = np.empty((len(x), rows.count, columns.count), x.dtype)
    _over_images(_max_pool, (x, rows, columns), y)
    return y


def max_pool_backward(
    grad: np.ndarray, x: np.ndarray, rows: Windows, columns: Windows
) -> np.ndarray:
    """Return the gradient of x: each window's goes to its first maximum, or else its last NaN."""
    grad_x = np.zeros(x.shape, grad.dtype)
    _over_images(_max_pool_backward, (grad, x, rows, columns), grad_x)
    return grad_x


def _over_images(loops, arguments, result):
    if large(arguments[-3]):
        over_ranges(loops, len(result), arguments, (result,))
    else:
        loops(*arguments, 0, len(result), result)


@compiled
def _larger(value, maximum):
    return value > maximum or value != value  # or NaN


@compiled
def _window(axis, o):
    """Return the first tap of window o that is inside the input, and one past the last."""
    start = o * axis.stride - axis.before
    first = max(-(start // axis.dilation), 0)
    last = min((axis.size - 1 - start) // axis.dilation, axis.kernel - 1)
    return start, first, last + 1


@compiled
def _max_pool(x, rows, columns, first, last, y):
    lines = np.empty(x.shape[2], x.dtype)
    for p in range(first, last):
        for r in range(rows.count):
            _max_of_rows(x[p], rows, r, lines)
            _max_of_columns(lines, columns, y[p, r])


@compiled
def _max_of_rows(image, rows, r, maxima):
    start, first, last = _window(rows, r)
    for w in range(len(maxima)):
        maxima[w] = -np.inf
    for i in range(first, last):
        line = image[start + i * rows.dilation]
        for w in range(len(maxima)):
            maxima[w] = line[w] if _larger(line[w], maxima[w]) else maxima[w]


@compiled
def _max_of_columns(line, columns, maxima):
    for c in range(columns.count):
        start, first, last = _window(columns, c)
        maximum = maxima.dtype.type(-np.inf)
        for j in range(first, last):
            value = line[start + j * columns.dilation]
            maximum = value if _larger(value, maximum) else maximum
        maxima[c] = maximum


@compiled
def _max_pool_backward(grad, x, rows, columns, first, last, grad_x):
    for p in range(first, last):
        for r in range(rows.count):
            top, first_row, last_row = _window(rows, r)
            for c in range(columns.count):
                left, first_column, last_column = _window(columns, c)
                maximum, h, w = -np.inf, -1, -1
                for i in range(first_row, last_row):
                    y = top + i * rows.dilation
                    for j in range(first_column, last_column):
                        at = left + j * columns.dilation
                        value = x[p, y, at]
                        if h < 0 or _larger(value, maximum):
                            maximum, h, w = value, y, at
                if h >= 0:
                    grad_x[p, h, w] += grad[p, r, c]
