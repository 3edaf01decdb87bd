"""BatchNorm's four passes, compiled; :mod:`npbn.engines.numpy_.batch_norm` documents them.

float32 numbers are read, computed with in float64, and rounded once when they are written. There
are loops for matrices, :mod:`npbn.engines.numba_.matrix`, and loops for more axes,
:mod:`npbn.engines.numba_.positions`. A pass inside a compiled function is compiled into it. With
several threads, the passes over a large array are called one by one, and the threads take ranges
of the parts of the array. Nothing depends on which parts a thread takes: results are the same, bit
for bit, for any number of threads.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numba.extending import overload, register_jitable

from npbn.engines import passes
from npbn.engines.numba_ import matrix, positions
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.ranges import over_ranges
from npbn.engines.numba_.totals import add_in_pairs, finish, make_finite
from npbn.engines.threads import large

Array = np.ndarray


@compiled
def _without(rest, total, factor):
    """See the NumPy engine."""
    result = total.copy()
    for c in range(len(total)):
        if np.isfinite(factor[c]):
            result[c] -= factor[c] * rest[c]
    return result


def _passes(loops: ModuleType, each: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Return the passes with the loops for a layout; ``each(loop)`` calls a loop for all parts."""
    parts, blocks, first_values = loops.parts, loops.blocks, loops.first_values
    deviation_sums, gradient_sums = each(loops.deviation_sums), each(loops.gradient_sums)
    affine_each, combine_each = each(loops.affine), each(loops.combine)

    def moments(x, out):
        if x.size == 0:
            out[:3] = 0.0
            return 0
        channels = x.shape[1]
        count, shift = x.size // channels, first_values(x)
        for _ in range(1 if x.itemsize == 4 else 2):
            make_finite(shift)
            sums, squares = np.zeros((blocks(x), channels)), np.zeros((blocks(x), channels))
            deviation_sums(parts(x), (x, shift), (sums, squares))
            add_in_pairs(sums)
            add_in_pairs(squares)
            finish(count, shift, sums[0], squares[0], out[0], out[1], out[2])
            shift = out[0].copy()
        return count

    def affine(x, mean, rest, scale, shift, out):
        affine_each(parts(x), (x, mean, scale, _without(rest, shift, scale)), (out,))

    def reduce(grad, x, mean, rest):
        channels = x.shape[1]
        if x.size == 0:
            return np.zeros(channels), np.zeros(channels)
        sums, products = np.zeros((blocks(x), channels)), np.zeros((blocks(x), channels))
        gradient_sums(parts(x), (grad, x, mean), (sums, products))
        add_in_pairs(sums)
        add_in_pairs(products)
        return sums[0], _without(rest, products[0], sums[0])

    def combine(grad, x, mean, rest, a, b, c, out):
        combine_each(parts(x), (grad, x, mean, a, b, _without(rest, c, b)), (out,))

    return moments, affine, reduce, combine


def _at_once(loop: Callable[..., Any]) -> Callable[..., Any]:
    def run(count, arguments, results):
        loop(*arguments, 0, count, *results)

    compiled_run: Callable[..., Any] = register_jitable(run)
    return compiled_run


def _in_threads(loop: Callable[..., Any]) -> Callable[..., Any]:
    def run(count: int, arguments: tuple[Array, ...], results: tuple[Array, ...]) -> None:
        over_ranges(large(arguments[0]), loop, count, arguments, results)

    return run


# By the number of axes: to be compiled into a function, and to be called.
_LOOPS = {2: matrix, 3: positions}
_COMPILED = {axes: _passes(loops, _at_once) for axes, loops in _LOOPS.items()}
_CALLED = {axes: _passes(loops, _in_threads) for axes, loops in _LOOPS.items()}

overload(passes.moments)(lambda x, out: _COMPILED[x.ndim][0])
overload(passes.affine)(lambda x, mean, rest, scale, shift, out: _COMPILED[x.ndim][1])
overload(passes.reduce)(lambda grad, x, mean, rest: _COMPILED[x.ndim][2])
overload(passes.combine)(lambda grad, x, mean, rest, a, b, c, out: _COMPILED[x.ndim][3])


def moments(x: Array, out: Array) -> int:
    """See the NumPy engine."""
    count: int = _CALLED[x.ndim][0](x, out)
    return count


def affine(x: Array, mean: Array, rest: Array, scale: Array, shift: Array, out: Array) -> None:
    """See the NumPy engine."""
    _CALLED[x.ndim][1](x, mean, rest, scale, shift, out)


def reduce(grad: Array, x: Array, mean: Array, rest: Array) -> tuple[Array, Array]:
    """See the NumPy engine."""
    sums: tuple[Array, Array] = _CALLED[x.ndim][2](grad, x, mean, rest)
    return sums


def combine(
    grad: Array, x: Array, mean: Array, rest: Array, a: Array, b: Array, c: Array, out: Array
) -> None:
    """See the NumPy engine."""
    _CALLED[x.ndim][3](grad, x, mean, rest, a, b, c, out)
