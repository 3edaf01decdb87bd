"""The loops of BatchNorm's four passes over a matrix (N, C), for its blocks of rows.

Channels are innermost: the (C,) vectors stay in the first-level cache.
"""

import numpy as np

from npbn.engines.numba_.compiling import compiled

# Rows in a block: they are summed one after the other, and these sums are added in pairs.
ROWS = 256
# Elementwise passes take strips of rows from the last to the first: the last rows of the pass
# before are in the cache.
STRIP = 64


@compiled
def blocks(x):
    """Return the number of blocks, and so of sums for each channel."""
    return (len(x) + ROWS - 1) // ROWS


@compiled
def parts(x):
    """Return the number of parts that threads may take."""
    return blocks(x)


@compiled
def first_values(x):
    """Return the first value of each channel."""
    return x[0].astype(np.float64)


@compiled
def deviation_sums(x, shift, first, last, sums, squares):
    """Add the deviations of four rows at a time: each addition loads and stores the sums."""
    channels = len(shift)
    for k in range(first, last):
        begin, end = k * ROWS, min((k + 1) * ROWS, len(x))
        whole = end - (end - begin) % 4
        total, square = sums[k], squares[k]
        for i in range(begin, whole, 4):
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            for c in range(channels):
                s = shift[c]
                d0, d1, d2, d3 = x0[c] - s, x1[c] - s, x2[c] - s, x3[c] - s
                total[c] += (d0 + d1) + (d2 + d3)
                square[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        for i in range(whole, end):
            row = x[i]
            for c in range(channels):
                d = row[c] - shift[c]
                total[c] += d
                square[c] += d * d


@compiled
def affine(x, mean, scale, shift, first, last, y):
    """Write (x − mean) · scale + shift."""
    begin, end = first * ROWS, min(last * ROWS, len(x))
    for stop in range(end, begin, -STRIP):
        for i in range(max(stop - STRIP, begin), stop):
            row, out = x[i], y[i]
            for c in range(len(mean)):
                out[c] = (row[c] - mean[c]) * scale[c] + shift[c]


@compiled
def gradient_sums(grad, x, mean, first, last, sums, products):
    """Add grad and grad · (x − mean) of four rows at a time."""
    channels = len(mean)
    for k in range(first, last):
        begin, end = k * ROWS, min((k + 1) * ROWS, len(x))
        whole = end - (end - begin) % 4
        total, product = sums[k], products[k]
        for i in range(begin, whole, 4):
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            g0, g1, g2, g3 = grad[i], grad[i + 1], grad[i + 2], grad[i + 3]
            for c in range(channels):
                m = mean[c]
                h0, h1 = np.float64(g0[c]), np.float64(g1[c])
                h2, h3 = np.float64(g2[c]), np.float64(g3[c])
                low = h0 * (x0[c] - m) + h1 * (x1[c] - m)
                high = h2 * (x2[c] - m) + h3 * (x3[c] - m)
                total[c] += (h0 + h1) + (h2 + h3)
                product[c] += low + high
        for i in range(whole, end):
            row, grad_row = x[i], grad[i]
            for c in range(channels):
                g = np.float64(grad_row[c])
                total[c] += g
                product[c] += g * (row[c] - mean[c])


@compiled
def combine(grad, x, mean, a, b, c, first, last, out):
    """Write a · grad + b · (x − mean) + c."""
    begin, end = first * ROWS, min(last * ROWS, len(x))
    for stop in range(end, begin, -STRIP):
        for i in range(max(stop - STRIP, begin), stop):
            row, grad_row, out_row = x[i], grad[i], out[i]
            for j in range(len(mean)):
                out_row[j] = grad_row[j] * a[j] + ((row[j] - mean[j]) * b[j] + c[j])
