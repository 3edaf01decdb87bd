"""BatchNorm's four passes over large arrays.

torch has the same decomposition. The other computations of BatchNorm, in
:mod:`npbn.functional.batch_norm`, are mathematics on (C,) vectors. Here x has shape (N, C) or
(N, C, P): N samples of C channels, at P positions each; C-contiguous, float32 or float64. Vectors
and intermediate results are float64: a float32 result is rounded once, at the end.

The mean is a sum of two float64 numbers, ``mean + rest``: a single one is not accurate enough for
float64 input. A deviation is ``d = (x − mean) − rest``.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.threads import large, share

Array = np.ndarray

# Numbers in a block: its float64 copies stay in the second-level cache. Forward + backward at
# (4096, 1024), Zen 2: 8,192 59 ms, 16,384 56, 32,768 57, 65,536 62, 262,144 75.
BLOCK = 32768
# The most samples in a block. They are summed one after the other, the blocks in pairs: the error
# of a sum of n numbers is at most (SAMPLES + log₂ n + 8) · 2⁻⁵³ · Σ|terms|, below 550 · 2⁻⁵³.
SAMPLES = 512


def moments(x: Array, out: Array) -> int:
    """Write mean, rest and m2 = Σ d² of each channel to `out`, (3, C); return n, the count.

    With a shift s, Σ d² = Σ (x − s)² − n · offset², offset = mean − s. The difference loses digits
    if s is far from the mean. With s the channel's first value, (s − mean)² is one of the terms of
    Σ d²: the sums are at most n + 1 times their difference, so that n = 10⁶ costs 20 of the 29 bits
    that float64 has more than float32. The error, 550 · 2⁻⁵³ · (n + 1) of m2, is then half an eps
    of float32. m2 of a channel of one repeated value is exactly 0.

    float64 input has no additional bits. Its statistics are computed a second time with the first
    mean as s: offset² is then negligible beside Σ d² / n, and the error is 550 · 2⁻⁵³ of m2.
    """
    count: int = x.size // max(x.shape[1], 1)
    if count == 0:
        out[:3] = 0
        return 0
    mean = x[0].reshape(x.shape[1], -1)[:, 0].astype(np.float64)
    for _ in range(1 if x.dtype == np.float32 else 2):
        shift = np.where(np.isfinite(mean), mean, 0.0)
        sums, squares = _total(_deviation_sums, (x,), shift)
        offset = sums / count
        mean = shift + offset
    out[0] = mean
    out[1] = np.where(np.isfinite(mean), (shift - mean) + offset, 0.0)  # rounding error of the mean
    out[2] = np.maximum(squares - sums * offset, 0.0)
    return count


def affine(x: Array, mean: Array, rest: Array, scale: Array, shift: Array, out: Array) -> None:
    """Write d · scale + shift to `out`, of x's shape and dtype."""
    _each(_affine, (x, out), mean, scale, _without(rest, shift, scale))


def reduce(grad: Array, x: Array, mean: Array, rest: Array) -> tuple[Array, Array]:
    """Return Σ grad and Σ grad · d of each channel."""
    sums, products = _total(_gradient_sums, (grad, x), mean)
    return sums, _without(rest, products, sums)


def combine(
    grad: Array, x: Array, mean: Array, rest: Array, a: Array, b: Array, c: Array, out: Array
) -> None:
    """Write a · grad + b · d + c to `out`, of grad's shape and dtype."""
    _each(_combine, (grad, x, out), mean, a, b, _without(rest, c, b))


def _without(rest: Array, total: Array, factor: Array) -> Array:
    """Return total − factor · rest: it corrects for loops that subtract only the mean."""
    return np.where(np.isfinite(factor), total - factor * rest, total)  # ∞ − ∞ would be NaN


# -- on one block ---------------------------------------------------------------------------------


def _deviation_sums(x: Array, shift: Array) -> Array:
    d = x.astype(np.float64)
    d -= shift
    return np.array([_sums(d), _sums(d * d)])


def _affine(x: Array, out: Array, mean: Array, scale: Array, shift: Array) -> None:
    d = x.astype(np.float64)
    d -= mean
    d *= scale
    d += shift
    out[...] = d


def _gradient_sums(grad: Array, x: Array, mean: Array) -> Array:
    grad, d = grad.astype(np.float64), x.astype(np.float64)
    d -= mean
    d *= grad
    return np.array([_sums(grad), _sums(d)])


def _combine(grad: Array, x: Array, out: Array, mean: Array, a: Array, b: Array, c: Array) -> None:
    d = x.astype(np.float64)
    d -= mean
    d *= b
    d += c
    d += grad * a
    out[...] = d


def _sums(x: Array) -> Array:
    """Return the sums of float64 (n, C) or (n, C, P) over positions, and over samples by BLAS."""
    return np.ones(len(x)) @ (x if x.ndim == 2 else np.add.reduce(x, axis=2))


# -- over the blocks ------------------------------------------------------------------------------


def _each(work: Callable[..., Any], arrays: tuple[Array, ...], *vectors: Array) -> list[Any]:
    """Call `work` with each block of samples, the blocks of a large array in threads."""
    samples, *inner = arrays[0].shape
    if arrays[0].ndim == 3:
        vectors = tuple(vector[:, None] for vector in vectors)  # to broadcast along the positions
    step = min(max(BLOCK // max(math.prod(inner), 1), 1), SAMPLES)
    blocks = [
        (*(array[start : start + step] for array in arrays), *vectors)
        for start in range(0, samples, step)
    ]
    return share(work, blocks, threaded=large(arrays[0]))


def _total(work: Callable[..., Array], arrays: tuple[Array, ...], *vectors: Array) -> Array:
    """Return the sum of what `work` returns for each block, (2, C)."""
    parts = _each(work, arrays, *vectors) or [np.zeros((2, arrays[0].shape[1]))]
    return parts[0] if len(parts) == 1 else np.asarray(np.add.reduce(np.stack(parts, -1), axis=-1))
