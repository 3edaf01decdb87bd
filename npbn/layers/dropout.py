"""Dropout as a layer."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.functional.checks import float_array
from npbn.functional.dropout import check_probability, dropout_backward, dropout_forward
from npbn.layers.module import Module
from npbn.rng import generator


class Dropout(Module):
    """Sets elements to 0 in training, each with probability p, and divides the others by 1 − p.

    In evaluation it returns its input.

    Parameters
    ----------
    p : float, from 0 to 1
        Probability of setting an element to 0.
    rng : numpy.random.Generator, optional
        Used by every forward pass in training; see :func:`npbn.functional.dropout_forward`.
        Deep copies and pickles of the layer continue from its state.

    Raises
    ------
    ValueError
        On a `p` that is no number from 0 to 1.
    TypeError
        On an `rng` that is no Generator.
    DtypeError
        On an input that is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Dropout(0.5, rng=np.random.default_rng(0))
    >>> layer(np.array([1.0, 2.0, 3.0]))
    array([2., 0., 0.])
    >>> layer.backward(np.array([10.0, 20.0, 30.0]))
    array([20.,  0.,  0.])
    >>> layer.predict(np.array([1.0, 2.0, 3.0]))
    array([1., 2., 3.])
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None):
        check_probability("Dropout", p)
        self.p = p
        self.rng = generator(rng)

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, np.ndarray | None]:
        check_probability("Dropout", self.p)
        x = float_array("Dropout", x)
        if predict or not self.training:
            return x, None
        return dropout_forward(x, self.p, self.rng)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        if not input_grad:
            return None
        return grad_output if cache is None else dropout_backward(grad_output, cache)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them.

        Returns
        -------
        str
            The text between the parentheses.
        """
        return f"p={self.p}, inplace=False"
