"""The loops of BatchNorm's four passes over (N, C, P), for its channels.

Positions are innermost: the numbers of a channel stay in registers.
"""

import numpy as np

from npbn.engines.numba_.compiling import any_order, compiled

# PIECE positions are summed in any order, which is vectorised. The sums of PIECES pieces are added
# one after the other, and the results in pairs.
PIECE = 4096
PIECES = 256


@compiled
def _deviation(x, mean):
    # A function of its own, in which nothing is reassociated.
    return x - mean


@any_order
def _deviation_sums(x, shift):
    total, squares = 0.0, 0.0
    for i in range(len(x)):
        d = _deviation(x[i], shift)
        total += d
        squares += d * d
    return total, squares


@any_order
def _gradient_sums(grad, x, mean):
    total, products = 0.0, 0.0
    for i in range(len(x)):
        g = np.float64(grad[i])
        total += g
        products += g * _deviation(x[i], mean)
    return total, products


@compiled
def blocks(x):
    """Return the number of sums for each channel that are added in pairs."""
    samples, _, positions = x.shape
    pieces = samples * ((positions + PIECE - 1) // PIECE)
    return (pieces + PIECES - 1) // PIECES


@compiled
def parts(x):
    """Return the number of parts that threads may take: the channels."""
    return x.shape[1]


@compiled
def first_values(x):
    """Return the first value of each channel."""
    return x[0, :, 0].astype(np.float64)


@compiled
def deviation_sums(x, shift, first, last, sums, squares):
    """Add the deviations of a piece at a time."""
    samples, _, positions = x.shape
    piece = 0
    for i in range(samples):
        for begin in range(0, positions, PIECE):
            k, end = piece // PIECES, min(begin + PIECE, positions)
            for c in range(first, last):
                total, square = _deviation_sums(x[i, c, begin:end], shift[c])
                sums[k, c] += total
                squares[k, c] += square
            piece += 1


@compiled
def affine(x, mean, scale, shift, first, last, y):
    """Write (x − mean) · scale + shift."""
    for i in range(len(x) - 1, -1, -1):
        for c in range(first, last):
            _affine(x[i, c], mean[c], scale[c], shift[c], y[i, c])


@compiled
def _affine(x, mean, scale, shift, y):
    for i in range(len(x)):
        y[i] = (x[i] - mean) * scale + shift


@compiled
def gradient_sums(grad, x, mean, first, last, sums, products):
    """Add grad and grad · (x − mean) of a piece at a time."""
    samples, _, positions = x.shape
    piece = 0
    for i in range(samples):
        for begin in range(0, positions, PIECE):
            k, end = piece // PIECES, min(begin + PIECE, positions)
            for c in range(first, last):
                total, product = _gradient_sums(grad[i, c, begin:end], x[i, c, begin:end], mean[c])
                sums[k, c] += total
                products[k, c] += product
            piece += 1


@compiled
def combine(grad, x, mean, a, b, c, first, last, out):
    """Write a · grad + b · (x − mean) + c."""
    for i in range(len(x) - 1, -1, -1):
        for j in range(first, last):
            _combine(grad[i, j], x[i, j], mean[j], a[j], b[j], c[j], out[i, j])


@compiled
def _combine(grad, x, mean, a, b, c, out):
    for i in range(len(x)):
        out[i] = grad[i] * a + ((x[i] - mean) * b + c)
