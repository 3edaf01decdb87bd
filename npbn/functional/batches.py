"""Conversion of arrays to what an engine takes, C-contiguous float32 or float64, and back."""

import math

import numpy as np


def as_batch(x: np.ndarray) -> np.ndarray:
    """Return (N, C, ...) as (N, C) or (N, C, P), float32 or float64.

    It is C-contiguous, aligned and writeable: numba compiles a function again for other arrays.
    """
    if x.itemsize == 2:  # float16
        x = x.astype(np.float32)
    if not x.flags.carray:
        x = np.array(x, order="C")
    return x if x.ndim == 2 else x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def as_vector(vector: np.ndarray) -> np.ndarray:
    """Return a (C,) vector in float32 or float64."""
    return vector.astype(np.float32) if vector.itemsize == 2 else vector  # 2 bytes: float16


def scale_and_shift(
    weight: np.ndarray | None, bias: np.ndarray | None, batch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (C,) vectors: 1 in place of no weight, 0 in place of no bias."""
    channels, dtype = batch.shape[1], batch.dtype
    return (
        np.ones(channels, dtype) if weight is None else as_vector(weight),
        np.zeros(channels, dtype) if bias is None else as_vector(bias),
    )


def like(result: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return an engine's result with the shape and dtype of `x`."""
    if result.shape == x.shape and result.itemsize == x.itemsize:  # and so of one dtype
        return result
    return rounded(result.reshape(x.shape), x.dtype)


def rounded(result: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a result in another dtype; overflow gives infinity, without a warning."""
    if result.dtype == dtype:
        return result
    with np.errstate(all="ignore"):
        return result.astype(dtype)
