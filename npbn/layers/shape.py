"""Identity and Flatten: layers that compute nothing."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import ShapeError
from npbn.layers.module import Module


class Identity(Module):
    """Returns its input; any arguments are accepted and ignored, as in torch."""

    def __init__(self, *args: object, **kwargs: object):
        pass

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, None]:
        return np.asarray(x), None

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray:
        return grad_output


class Flatten(Module):
    """Joins the axes from `start_dim` to `end_dim` into one; a view where that is possible.

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.zeros((5, 28, 28))).shape
    (5, 784)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = start_dim
        self.end_dim = end_dim

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, tuple[int, ...]]:
        x = np.asarray(x)
        rank = max(x.ndim, 1)  # torch flattens a scalar to one axis
        if not all(-rank <= dim < rank for dim in (self.start_dim, self.end_dim)):
            raise ShapeError(f"Flatten({self.extra_repr()}): no such axes in input {x.shape}")
        start, end = self.start_dim % rank, self.end_dim % rank
        if start > end:
            raise ShapeError(
                f"Flatten({self.extra_repr()}): start_dim comes after end_dim in input {x.shape}"
            )
        joined = math.prod(x.shape[start : end + 1])
        return x.reshape(*x.shape[:start], joined, *x.shape[end + 1 :]), x.shape

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray:
        return grad_output.reshape(cache)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
