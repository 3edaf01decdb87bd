"""Checks that kernels and layers share; ``who`` names the function or layer in the message."""

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.errors import BatchSizeError, DtypeError, ShapeError

FLOAT16, FLOAT32, FLOAT64 = map(np.dtype, (np.float16, np.float32, np.float64))
FLOAT_DTYPES = (FLOAT32, FLOAT64, FLOAT16)  # the usual one is found first


def float_dtype(who: str, dtype: DTypeLike) -> np.dtype:
    """Return `dtype` as a NumPy dtype if npbn computes in it, else raise DtypeError."""
    expected = f"{who}: expected dtype float16, float32 or float64"
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise DtypeError(f"{expected}, got {dtype!r}") from error
    if dtype is None or found not in FLOAT_DTYPES:  # None is float64 to NumPy
        raise DtypeError(f"{expected}, got {None if dtype is None else found}")
    return found


def wide(dtype: np.dtype) -> np.dtype:
    """Return the dtype to compute in: for float16 it is float32, for accurate and fast sums."""
    return np.promote_types(dtype, np.float32)


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


def check_batch_norm(
    who: str,
    x: np.ndarray,
    num_features: int,
    vectors: tuple[np.ndarray | None, ...],
    training: bool,
    eps: float,
    least: int = 2,
) -> None:
    """Raise unless the arguments of :func:`batch_norm_forward` fit together.

    Parameters
    ----------
    who : str
        The function or layer, for the message.
    x : ndarray
        The input.
    num_features : int
        C, the number of channels expected along axis 1.
    vectors : tuple
        running_mean, running_var, weight and bias, in this order; each an array or None.
    training : bool
        Whether the batch's statistics will normalise.
    eps : float
        Added to the variance, under the root.
    least : int
        Values per channel that training needs: fewer if the batch is a shard of a larger one.

    Raises
    ------
    ShapeError
        Wrong channel count of `x`, or a per-channel array that is not ``(C,)``.
    DtypeError
        Not float, or of another dtype than the per-channel arrays (float16 input with float32
        arrays is allowed).
    BatchSizeError
        One value per channel in training: its variance is 0 for any value.
    ValueError
        `eps` out of range, or missing running statistics.
    """
    float_array(who, x)
    if x.shape[1] != num_features:
        raise ShapeError(f"{who}: expected {num_features} channels along axis 1, got {x.shape}")
    names = ("running_mean", "running_var", "weight", "bias")
    given = {name: array for name, array in zip(names, vectors, strict=True) if array is not None}
    for name, array in given.items():
        if array.shape != (num_features,):
            raise ShapeError(
                f"{who}: expected {name} of shape ({num_features},), got {array.shape}"
            )
    if ("running_mean" in given) != ("running_var" in given):
        raise ValueError(f"{who}: running_mean and running_var go together, got only one of them")
    dtypes = {array.dtype for array in given.values()}
    mixed_precision = x.dtype == FLOAT16 and dtypes == {FLOAT32}
    if dtypes - {x.dtype} and not mixed_precision:
        found = ", ".join(f"{name} {array.dtype}" for name, array in given.items())
        raise DtypeError(
            f"{who}: input is {x.dtype} but {found}; convert the input with x.astype(...), "
            "or the network with net.float() or net.double() "
            "(float16 input with float32 parameters is the one mixture allowed)"
        )
    if training and least > 1 and len(x) * math.prod(x.shape[2:]) == 1:
        raise BatchSizeError(
            f"{who}: Expected more than 1 value per channel when training, got input of shape "
            f"{x.shape}; if it is the last batch of an epoch, DataLoader(..., drop_last=True) "
            "leaves it out"
        )
    if training and not eps > 0:
        raise ValueError(f"{who}: expected eps > 0 in training, got {eps}")
    if not training and not eps >= 0:
        raise ValueError(f"{who}: expected eps >= 0, got {eps}")
    if not training and "running_mean" not in given:
        raise ValueError(f"{who}: running_mean and running_var are needed in evaluation, got None")


def plainly_fits(
    x: np.ndarray,
    num_features: int,
    vectors: tuple[np.ndarray | None, ...],
    training: bool,
    eps: float,
) -> bool:
    """Check the usual call quickly: True if all is of one dtype and fits, False if not decided.

    It takes a quarter of the time of :func:`check_batch_norm`, which decides. `vectors` are those
    of that function.
    """
    dtype, shape = x.dtype, (num_features,)
    for array in vectors:
        # Dtypes are usually the same object; those of arrays that were pickled are equal.
        if array is not None and (
            (array.dtype is not dtype and array.dtype != dtype) or array.shape != shape
        ):
            return False
    return (
        dtype in (FLOAT32, FLOAT64)
        and x.shape[1] == num_features
        and x.size > num_features
        and eps > 0
        and (vectors[0] is None) == (vectors[1] is None)
        and (training or vectors[0] is not None)
    )
