"""BatchNorm's four passes over (N, C, P), for the len(mean) channels from `first` on.

Positions are innermost: the numbers of a channel stay in registers.
"""

import numpy as np

from npbn.engines.numba_.compiling import any_order, compiled
from npbn.engines.numba_.totals import add_in_pairs, finish, make_finite

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
def _blocks(x):
    """Return the number of sums that are added in pairs."""
    samples, _, positions = x.shape
    pieces = samples * ((positions + PIECE - 1) // PIECE)
    return (pieces + PIECES - 1) // PIECES


@compiled
def moments(x, first, mean, rest, m2):
    """Write mean, rest and m2 of the channels."""
    samples, _, positions = x.shape
    width = len(mean)
    shift = np.empty(width)
    for c in range(width):
        shift[c] = x[0, first + c, 0]
    for _ in range(1 if x.itemsize == 4 else 2):
        make_finite(shift)
        sums, squares = np.zeros((_blocks(x), width)), np.zeros((_blocks(x), width))
        piece = 0
        for i in range(samples):
            for begin in range(0, positions, PIECE):
                end = min(begin + PIECE, positions)
                k = piece // PIECES
                for c in range(width):
                    total, square = _deviation_sums(x[i, first + c, begin:end], shift[c])
                    sums[k, c] += total
                    squares[k, c] += square
                piece += 1
        add_in_pairs(sums)
        add_in_pairs(squares)
        finish(samples * positions, shift, sums[0], squares[0], mean, rest, m2)
        for c in range(width):
            shift[c] = mean[c]


@compiled
def affine(x, mean, scale, shift, first, y):
    """Write (x − mean) · scale + shift."""
    for i in range(len(x) - 1, -1, -1):
        for c in range(len(mean)):
            _affine(x[i, first + c], mean[c], scale[c], shift[c], y[i, first + c])


@compiled
def _affine(x, mean, scale, shift, y):
    for i in range(len(x)):
        y[i] = (x[i] - mean) * scale + shift


@compiled
def reduce(grad, x, mean, first, sums, products):
    """Write Σ grad and Σ grad · (x − mean)."""
    samples, _, positions = x.shape
    width = len(mean)
    block_sums, block_products = np.zeros((_blocks(x), width)), np.zeros((_blocks(x), width))
    piece = 0
    for i in range(samples):
        for begin in range(0, positions, PIECE):
            end = min(begin + PIECE, positions)
            k = piece // PIECES
            for c in range(width):
                g, values = grad[i, first + c, begin:end], x[i, first + c, begin:end]
                total, product = _gradient_sums(g, values, mean[c])
                block_sums[k, c] += total
                block_products[k, c] += product
            piece += 1
    add_in_pairs(block_sums)
    add_in_pairs(block_products)
    for c in range(width):
        sums[c], products[c] = block_sums[0, c], block_products[0, c]


@compiled
def combine(grad, x, mean, a, b, c, first, out):
    """Write a · grad + b · (x − mean) + c."""
    for i in range(len(x) - 1, -1, -1):
        for j in range(len(mean)):
            k = first + j
            _combine(grad[i, k], x[i, k], mean[j], a[j], b[j], c[j], out[i, k])


@compiled
def _combine(grad, x, mean, a, b, c, out):
    for i in range(len(x)):
        out[i] = grad[i] * a + ((x[i] - mean) * b + c)
