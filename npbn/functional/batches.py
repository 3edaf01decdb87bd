"""Conversion of arrays to what an engine takes, C-contiguous float32 or float64, and back."""

import math
from typing import overload

import numpy as np


def as_batch(x: np.ndarray) -> np.ndarray:
    """Return (N, C, ...) as (N, C) or (N, C, P), float32 or float64.

    It is C-contiguous, aligned and writeable: numba compiles a function again for other arrays.
    """
    if x.dtype == np.float16:
        x = x.astype(np.float32)
    if not x.flags.carray:
        x = np.array(x, order="C")
    return x if x.ndim == 2 else x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


@overload
def as_vector(vector: np.ndarray) -> np.ndarray: ...


@overload
def as_vector(vector: np.ndarray | None) -> np.ndarray | None: ...


def as_vector(vector: np.ndarray | None) -> np.ndarray | None:
    """Return a (C,) vector, or None, in float32 or float64."""
    if vector is None or vector.dtype != np.float16:
        return vector
    return vector.astype(np.float32)


def like(result: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return an engine's result with the shape and dtype of `x`."""
    return rounded(result if result.shape == x.shape else result.reshape(x.shape), x.dtype)


def rounded(result: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a result in another dtype; overflow gives infinity, without a warning."""
    if result.dtype == dtype:
        return result
    with np.errstate(all="ignore"):
        return result.astype(dtype)
