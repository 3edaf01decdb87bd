"""Checks that kernels and layers share; ``who`` names the function or layer in the message."""

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.errors import DtypeError, ShapeError

FLOAT_DTYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


def float_dtype(who: str, dtype: DTypeLike) -> np.dtype:
    """Return `dtype` as a NumPy dtype if npbn computes in it, else raise DtypeError."""
    dtype = np.dtype(dtype)
    if dtype not in FLOAT_DTYPES:
        raise DtypeError(f"{who}: expected dtype float16, float32 or float64, got {dtype}")
    return dtype


def float_array(who: str, x: ArrayLike, what: str = "input") -> np.ndarray:
    """Return `x` as an array of one of npbn's float dtypes, else raise DtypeError."""
    x = np.asarray(x)
    if x.dtype not in FLOAT_DTYPES:
        raise DtypeError(
            f"{who}: expected {what} of dtype float16, float32 or float64, got {x.dtype}; "
            "convert it first, e.g. x.astype(np.float32)"
        )
    return x


def same_dtype(who: str, x: np.ndarray, dtype: np.dtype, what: str = "input") -> None:
    """Raise DtypeError unless `x` has the dtype of the parameters (or of the other operand)."""
    if x.dtype != dtype:
        raise DtypeError(
            f"{who}: expected {what} of dtype {dtype}, got {x.dtype}; convert it with "
            f"x.astype(np.{dtype}), or the network with net.float() or net.double()"
        )


def same_shape(who: str, x: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """Raise ShapeError unless `x` has exactly this shape."""
    if x.shape != shape:
        raise ShapeError(f"{who}: expected {what} of shape {shape}, got {x.shape}")
