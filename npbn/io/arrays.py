"""Conversion to arrays of anything that holds numbers, tensors of other libraries too."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def as_array(value: ArrayLike) -> np.ndarray:
    """Return `value` as an array, bfloat16 as float32, or raise ValueError.

    NumPy has no bfloat16: tensors are converted by their own method, arrays of a dtype that a
    package adds are cast.
    """
    tensor: Any = value
    try:
        if str(getattr(tensor, "dtype", None)) == "torch.bfloat16":
            tensor = tensor.float()
        array = np.asarray(tensor)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise ValueError(f"expected an array, got {type(value).__name__} ({error})") from error
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
