"""Dropout.

N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014,
section 10: kept values are scaled in training, so that nothing is left to do in evaluation.
"""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from numbers import Real

import numpy as np

from npbn.functional.checks import float_array
from npbn.rng import generator


@np.errstate(all="ignore")
def dropout_forward(
    x: np.ndarray, p: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return x with elements dropped, each with probability p, and the cache for backward.

    ::

        y = x · mask,  mask = 0 with probability p, else 1 / (1 − p)

    A product, as in torch: what is dropped of infinities and NaN is NaN.

    Parameters
    ----------
    x : ndarray, any shape
    p : float, from 0 to 1
    rng : numpy.random.Generator
        One float64 is drawn for each element, in C order: a seed drops the same elements whatever
        the dtype and the memory layout.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mask : ndarray, shape and dtype of x
    """
    # As integers, since 0 times a scale that is infinite in float16 would be NaN. NumPy turns
    # results without axes into scalars, which np.asarray turns back.
    scale = np.array(1 / (1 - p) if p < 1 else 0, x.dtype)
    mask = np.asarray((rng.random(x.shape) >= p) * scale.view(f"i{x.itemsize}")).view(x.dtype)
    return np.asarray(x * mask), mask


@np.errstate(all="ignore")
def dropout_backward(grad_output: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return the gradient of the input, grad_output · mask."""
    return np.asarray(grad_output * cache)


def dropout(
    x: np.ndarray, p: float = 0.5, training: bool = True, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return x with elements dropped with probability p and the others divided by 1 − p.

    Parameters
    ----------
    x : ndarray, any shape
    p : float, from 0 to 1
    training : bool
        False returns `x` itself and draws nothing.
    rng : numpy.random.Generator, optional

    Raises
    ------
    DtypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> dropout(np.array([1.0, 2.0, 3.0]), 0.5, rng=np.random.default_rng(0))
    array([2., 0., 0.])
    """
    check_probability("dropout", p)
    rng = generator(rng)
    x = float_array("dropout", x)
    return dropout_forward(x, p, rng)[0] if training else x


def check_probability(who: str, p: float) -> None:
    """Raise ValueError unless p is a number from 0 to 1."""
    if not (isinstance(p, Real) and 0 <= p <= 1):
        raise ValueError(f"{who}: expected a probability p from 0 to 1, got {p!r}")
