"""Anything that holds numbers, tensors of other libraries too, as an array."""

import numpy as np
from numpy.typing import ArrayLike


def as_array(value: ArrayLike) -> np.ndarray:
    """Return `value` as an array, bfloat16 widened to float32, or raise ValueError.

    NumPy has no bfloat16. As tensors such values widen themselves; as arrays of a dtype that a
    package adds they are cast.
    """
    if str(getattr(value, "dtype", None)) == "torch.bfloat16":
        value = value.float()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, or on a GPU
        raise ValueError(f"expected an array, got {type(value).__name__} ({error})") from error
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
