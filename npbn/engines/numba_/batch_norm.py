"""BatchNorm's four passes, compiled; what they compute, :mod:`npbn.engines.numpy_` says.

A float32 number is read, worked on in float64 registers, and rounded once when it is written.
There is one set of loops for matrices, :mod:`npbn.engines.numba_.matrix`, and one for more axes,
:mod:`npbn.engines.numba_.positions`. Threads take ranges of channels, which are independent: the
bits do not depend on the number of threads.
"""

import numpy as np
from numba.extending import overload

from npbn.engines import passes
from npbn.engines.numba_ import matrix, positions
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.ranges import large, over_ranges


def moments(x: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean, rest and m2 of the channels of a batch (N, C, P)."""
    if not large(x):
        return _moments(x)
    samples, channels, width = x.shape
    mean, rest, m2 = np.zeros((3, channels))
    over_ranges(_moments_of, channels, (x,), (mean, rest, m2))
    return samples * width, mean, rest, m2


def affine(
    x: np.ndarray, mean: np.ndarray, rest: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Return d · scale + shift, of x's shape and dtype."""
    if not large(x):
        return _affine(x, mean, rest, scale, shift)
    y = np.empty_like(x)
    over_ranges(_affine_of, x.shape[1], (x, mean, rest, scale, shift), (y,))
    return y


def reduce(
    grad: np.ndarray, x: np.ndarray, mean: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ grad and Σ grad · d of every channel, (C,)."""
    if not large(x):
        return _reduce(grad, x, mean, rest)
    sums, products = np.zeros((2, x.shape[1]))
    over_ranges(_reduce_of, x.shape[1], (grad, x, mean, rest), (sums, products))
    return sums, products


def combine(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
) -> np.ndarray:
    """Return a · grad + b · d + c, of grad's shape and dtype."""
    if not large(x):
        return _combine(grad, x, mean, rest, a, b, c)
    out = np.empty_like(grad)
    over_ranges(_combine_of, x.shape[1], (grad, x, mean, rest, a, b, c), (out,))
    return out


# -- all channels, compiled -----------------------------------------------------------------------


@compiled
def _moments(x):
    samples, channels, width = x.shape
    mean, rest, m2 = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    if x.size:
        _moments_of(x, 0, channels, mean, rest, m2)
    return samples * width, mean, rest, m2


@compiled
def _affine(x, mean, rest, scale, shift):
    y = np.empty_like(x)
    _affine_of(x, mean, rest, scale, shift, 0, x.shape[1], y)
    return y


@compiled
def _reduce(grad, x, mean, rest):
    channels = x.shape[1]
    sums, products = np.zeros(channels), np.zeros(channels)
    if x.size:
        _reduce_of(grad, x, mean, rest, 0, channels, sums, products)
    return sums, products


@compiled
def _combine(grad, x, mean, rest, a, b, c):
    out = np.empty_like(grad)
    _combine_of(grad, x, mean, rest, a, b, c, 0, x.shape[1], out)
    return out


# Inside of a function that is compiled as a whole, the passes are these.
overload(passes.moments)(lambda x: lambda x: _moments(x))
overload(passes.affine)(
    lambda x, mean, rest, scale, shift: (
        lambda x, mean, rest, scale, shift: _affine(x, mean, rest, scale, shift)
    )
)
overload(passes.reduce)(
    lambda grad, x, mean, rest: lambda grad, x, mean, rest: _reduce(grad, x, mean, rest)
)
overload(passes.combine)(
    lambda grad, x, mean, rest, a, b, c: (
        lambda grad, x, mean, rest, a, b, c: _combine(grad, x, mean, rest, a, b, c)
    )
)


# -- the channels from `first` to `last` ----------------------------------------------------------


@compiled
def _rows(x):
    return x.reshape(x.shape[0], x.shape[1])


@compiled
def _moments_of(x, first, last, mean, rest, m2):
    mean, rest, m2 = mean[first:last], rest[first:last], m2[first:last]
    if x.shape[2] == 1:
        matrix.moments(_rows(x), first, mean, rest, m2)
    else:
        positions.moments(x, first, mean, rest, m2)


@compiled
def _affine_of(x, mean, rest, scale, shift, first, last, y):
    mean, scale = mean[first:last], scale[first:last]
    shift = shift[first:last] - rest[first:last] * scale
    if x.shape[2] == 1:
        matrix.affine(_rows(x), mean, scale, shift, first, _rows(y))
    else:
        positions.affine(x, mean, scale, shift, first, y)


@compiled
def _reduce_of(grad, x, mean, rest, first, last, sums, products):
    sums, products, mean = sums[first:last], products[first:last], mean[first:last]
    if x.shape[2] == 1:
        matrix.reduce(_rows(grad), _rows(x), mean, first, sums, products)
    else:
        positions.reduce(grad, x, mean, first, sums, products)
    products -= rest[first:last] * sums


@compiled
def _combine_of(grad, x, mean, rest, a, b, c, first, last, out):
    mean, a, b = mean[first:last], a[first:last], b[first:last]
    c = c[first:last] - b * rest[first:last]
    if x.shape[2] == 1:
        matrix.combine(_rows(grad), _rows(x), mean, a, b, c, first, _rows(out))
    else:
        positions.combine(grad, x, mean, a, b, c, first, out)
