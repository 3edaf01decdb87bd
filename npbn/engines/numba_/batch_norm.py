"""BatchNorm's four passes, compiled; :mod:`npbn.engines.numpy_.batch_norm` documents them.

float32 numbers are read, computed with in float64, and rounded once when they are written. There
are loops for matrices, :mod:`npbn.engines.numba_.matrix`, and loops for more axes,
:mod:`npbn.engines.numba_.positions`. A pass inside a compiled function is replaced by the loops
for its arrays, or for a thread's range of channels. Channels are independent: results are the
same, bit for bit, for any number of threads.
"""

from types import ModuleType

import numpy as np
from numba.core.types import BaseTuple
from numba.extending import overload, register_jitable

from npbn.engines import passes
from npbn.engines.numba_ import matrix, positions
from npbn.engines.numba_.compiling import compiled

# Slices of vectors by channels are copied, since the compiler does not know them as contiguous.


def _kind(array) -> tuple[bool, ModuleType]:
    """Return whether a type is a range of channels, and the module with the loops for it."""
    part = isinstance(array, BaseTuple)
    return part, matrix if (array[0] if part else array).ndim == 2 else positions


@compiled
def _without(rest, total, factor):
    """See the NumPy engine."""
    result = total.copy()
    for c in range(len(total)):
        if np.isfinite(factor[c]):
            result[c] -= factor[c] * rest[c]
    return result


@overload(passes.moments)
def _moments(x, out):
    part, loops = _kind(x)
    measure = loops.moments

    def moments(x, first, out):
        if x.size:
            measure(x, first, out[0], out[1], out[2])
        else:
            out[:3] = 0.0
        return x.size // max(x.shape[1], 1)

    moments = register_jitable(moments)
    if part:
        return lambda x, out: moments(x.whole, x.first, out)
    return lambda x, out: moments(x, 0, out)


@overload(passes.affine)
def _affine(x, mean, rest, scale, shift, out):
    part, loops = _kind(x)
    affine = loops.affine
    if part:
        return lambda x, mean, rest, scale, shift, out: affine(
            x.whole, mean.copy(), scale.copy(), _without(rest, shift, scale), x.first, out.whole
        )
    return lambda x, mean, rest, scale, shift, out: affine(
        x, mean, scale, _without(rest, shift, scale), 0, out
    )


@overload(passes.reduce)
def _reduce(grad, x, mean, rest):
    part, loops = _kind(x)
    add_up = loops.reduce

    def reduce(grad, x, first, mean, rest):
        sums, products = np.zeros(len(mean)), np.zeros(len(mean))
        if x.size:
            add_up(grad, x, mean, first, sums, products)
        return sums, _without(rest, products, sums)

    reduce = register_jitable(reduce)
    if part:
        return lambda grad, x, mean, rest: reduce(grad.whole, x.whole, x.first, mean.copy(), rest)
    return lambda grad, x, mean, rest: reduce(grad, x, 0, mean, rest)


@overload(passes.combine)
def _combine(grad, x, mean, rest, a, b, c, out):
    part, loops = _kind(x)
    combine = loops.combine
    if part:
        return lambda grad, x, mean, rest, a, b, c, out: combine(
            grad.whole,
            x.whole,
            mean.copy(),
            a.copy(),
            b.copy(),
            _without(rest, c, b),
            x.first,
            out.whole,
        )
    return lambda grad, x, mean, rest, a, b, c, out: combine(
        grad, x, mean, a, b, _without(rest, c, b), 0, out
    )
