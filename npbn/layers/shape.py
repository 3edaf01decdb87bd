"""Identity and Flatten: layers that compute nothing."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.arguments import check_integer
from npbn.errors import ShapeError
from npbn.layers.module import Module


class Identity(Module):
    """Returns its input.

    Parameters
    ----------
    *args, **kwargs
        Accepted and ignored, as in torch.

    Examples
    --------
    >>> Identity(54, unused=0.1)(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    def __init__(self, *args: object, **kwargs: object):
        pass

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, None]:
        return np.asarray(x), None

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray:
        return grad_output


class Flatten(Module):
    """Joins the axes from `start_dim` to `end_dim` into one.

    The output is a view of the input where that is possible.

    Parameters
    ----------
    start_dim, end_dim : int
        First and last axis; negative ones count from the end.

    Raises
    ------
    ValueError
        On an axis that is not an integer.
    ShapeError
        On an input without these axes.

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.zeros((5, 28, 28))).shape
    (5, 784)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        check_integer("Flatten", "start_dim", start_dim)
        check_integer("Flatten", "end_dim", end_dim)
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
        grad_input: np.ndarray = grad_output.reshape(cache)
        return grad_input

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them.

        Returns
        -------
        str
            The text between the parentheses.
        """
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
