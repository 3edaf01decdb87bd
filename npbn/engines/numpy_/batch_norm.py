"""BatchNorm's four passes over large arrays.

They are torch's decomposition too: all else that BatchNorm computes, in
:mod:`npbn.functional.batch_norm`, is mathematics on (C,) vectors. Here x has shape (N, C)
or (N, C, P): N samples of C channels, at P positions each. Arrays are C-contiguous,
float32 or float64. Vectors, and everything in between, are float64, so that a float32 result is
rounded once, at its end.

The mean is a sum of two float64 numbers, ``mean + rest``: one cannot hold the mean of float64
input. With d for a deviation, ``d = (x − mean) − rest``.
"""

import math
from collections.abc import Callable

import numpy as np

from npbn.engines.threads import share

# Numbers in a block: its float64 copies stay in the second-level cache. Forward + backward at
# (4096, 1024), Zen 2: 8,192 59 ms, 16,384 56, 32,768 57, 65,536 62, 262,144 75.
BLOCK = 32768

# Samples in a block at most: those are summed one after the other.
SAMPLES = 512

# Arrays of so many bytes are worth several threads.
THREADED_BYTES = 8 * 1024 * 1024


def moments(x: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Measure the channels of a batch.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, P)

    Returns
    -------
    count : int
        n = N · P, the values of a channel.
    mean, rest : ndarray, shape (C,)
        Σ x / n is mean + rest; 0 for an empty batch.
    m2 : ndarray, shape (C,)
        Σ d².

    Notes
    -----
    With a shift s, Σ d² = Σ (x − s)² − n · offset², offset = mean − s. The difference cancels
    digits if s is far from the mean. With s the first value, (s − mean)² is one of the terms of
    Σ d²: the sums are at most n + 1 times the difference, and n = 10⁶ costs 20 of the 29 bits that
    float64 has more than float32. A sum itself loses less than 400 · 2⁻⁵³ (:func:`_total`), so
    that a float32 variance is within 400 · 2⁻⁵³ · (n + 1), a third of its eps for n = 10⁶, before
    it is rounded. The shift makes a channel of one repeated value 0 exactly.

    float64 input has no bits to spare. It is measured a second time, about the first mean, where
    offset² is nothing beside Σ d² / n and no digit cancels: 400 · 2⁻⁵³ of m2 are lost.
    """
    channels = x.shape[1]
    count = x.size // max(channels, 1)
    if count == 0:
        return 0, np.zeros(channels), np.zeros(channels), np.zeros(channels)
    mean = x[0].reshape(channels, -1)[:, 0].astype(np.float64)
    for _ in range(1 if x.dtype == np.float32 else 2):
        shift = np.where(np.isfinite(mean), mean, 0.0)
        sums, squares = _total(_deviation_sums, (x,), shift)
        offset = sums / count
        mean = shift + offset
    rest = np.where(np.isfinite(mean), (shift - mean) + offset, 0.0)  # what rounding left out
    return count, mean, rest, np.maximum(squares - sums * offset, 0.0)


def affine(
    x: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write d · scale + shift to `out`, of x's shape and dtype.

    Notes
    -----
    Error bound: 1/2 eps of the result for float32, 2 eps · (|d · scale| + |shift|) for float64
    (four operations).
    """
    _each(_affine, (x, out), mean, scale, _without(rest, shift, scale))


def reduce(
    grad: np.ndarray, x: np.ndarray, mean: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ grad and Σ grad · d of every channel, (C,)."""
    sums, products = _total(_gradient_sums, (grad, x), mean)
    return sums, _without(rest, products, sums)


def combine(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write a · grad + b · d + c to `out`, of grad's shape and dtype.

    Notes
    -----
    Error bound: 1/2 eps of the result for float32, 3 eps of the sum of the terms for float64.
    """
    _each(_combine, (grad, x, out), mean, a, b, _without(rest, c, b))


def _without(rest: np.ndarray, total: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return total − factor · rest: of d = (x − mean) − rest, the loops subtract the mean alone."""
    return np.where(np.isfinite(factor), total - factor * rest, total)  # ∞ − ∞ would be NaN


# -- on one block ---------------------------------------------------------------------------------


def _deviations(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    d = x.astype(np.float64)
    d -= mean
    return d


def _deviation_sums(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    d = _deviations(x, shift)
    sums = _sums(d)
    d *= d
    return np.array([sums, _sums(d)])


def _gradient_sums(grad: np.ndarray, x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    d = _deviations(x, mean)
    d *= grad
    return np.array([_sums(grad.astype(np.float64)), _sums(d)])


def _affine(
    x: np.ndarray, out: np.ndarray, mean: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> None:
    d = _deviations(x, mean)
    d *= scale
    d += shift
    out[...] = d


def _combine(
    grad: np.ndarray,
    x: np.ndarray,
    out: np.ndarray,
    mean: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
) -> None:
    d = _deviations(x, mean)
    d *= b
    d += c
    d += grad * a
    out[...] = d


def _sums(x: np.ndarray) -> np.ndarray:
    """Sum float64 (n, C) or (n, C, P) over samples, by BLAS, and then positions."""
    sums = np.ones(len(x)) @ x.reshape(len(x), math.prod(x.shape[1:]))
    return sums if x.ndim == 2 else np.add.reduce(sums.reshape(x.shape[1:]), axis=1)


# -- over the blocks ------------------------------------------------------------------------------


def _each(work: Callable, arrays: tuple[np.ndarray, ...], *vectors: np.ndarray) -> list:
    """Call `work` with every block of samples, the blocks of a large array in threads."""
    samples, *inner = arrays[0].shape
    if arrays[0].ndim == 3:
        vectors = [vector[:, None] for vector in vectors]  # to broadcast along the positions
    step = min(max(BLOCK // max(math.prod(inner), 1), 1), SAMPLES)
    blocks = [
        (*(array[start : start + step] for array in arrays), *vectors)
        for start in range(0, samples, step)
    ]
    return share(work, blocks, threaded=arrays[0].nbytes >= THREADED_BYTES)


def _total(work: Callable, arrays: tuple[np.ndarray, ...], *vectors: np.ndarray) -> np.ndarray:
    """Return the sum of what `work` returns for every block, shape (2, C).

    Within a block, samples are summed in order and positions in pairs, the blocks in pairs too: a
    sum of float64 loses at most (BLOCK / (C · P) + log₂ n + 8) · 2⁻⁵³ of its Σ|terms|.
    """
    parts = _each(work, arrays, *vectors)
    if not parts:
        return np.zeros((2, arrays[0].shape[1]))
    return parts[0] if len(parts) == 1 else np.add.reduce(np.stack(parts, axis=-1), axis=-1)
