"""Dropout.

N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014,
section 10: values are scaled in training, so that evaluation leaves them as they are.
"""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from npbn.functional.checks import float_array
from npbn.rng import generator


@np.errstate(all="ignore")
def dropout_forward(
    x: np.ndarray, p: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Set elements to 0, each with probability p, and scale the others; return also the cache.

    ::

        y = x · mask,  mask = 0 with probability p, else 1 / (1 − p)

    It is a product, as in torch: 0 times infinity or NaN is NaN.

    Parameters
    ----------
    x : ndarray, any shape
        The input.
    p : float, from 0 to 1
        Probability of setting an element to 0.
    rng : numpy.random.Generator
        One float64 is drawn for each element, in C order: the elements that a seed drops do not
        depend on dtype and memory layout.

    Returns
    -------
    y : ndarray, shape and dtype of x
        The output.
    mask : ndarray, shape and dtype of x
        The cache, 0 or 1 / (1 − p) for each element.
    """
    # The mask is made as integers: 0 times a scale that is infinite in float16 would be NaN.
    # np.asarray keeps results without axes arrays, which NumPy returns as scalars.
    scale = np.array(1 / (1 - float(p)) if p < 1 else 0, x.dtype)
    mask = np.asarray((rng.random(x.shape) >= p) * scale.view(f"i{x.itemsize}")).view(x.dtype)
    return np.asarray(x * mask), mask


@np.errstate(all="ignore")
def dropout_backward(grad_output: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """Return the gradient of the input, grad_output · mask.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of x
        Gradient of the loss with respect to the output.
    cache : ndarray
        The mask that :func:`dropout_forward` returned.

    Returns
    -------
    ndarray, shape and dtype of x
        Gradient of the loss with respect to the input.
    """
    return np.asarray(grad_output * cache)


def dropout(
    x: ArrayLike, p: float = 0.5, training: bool = True, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Set elements to 0, each with probability p, and divide the others by 1 − p.

    Parameters
    ----------
    x : array_like, any shape, of a float dtype
        The input.
    p : float, from 0 to 1
        Probability of setting an element to 0.
    training : bool
        False returns `x` itself and draws nothing.
    rng : numpy.random.Generator, optional
        None is a new ``np.random.default_rng()``.

    Returns
    -------
    ndarray, shape and dtype of x
        The output.

    Raises
    ------
    DtypeError
        If `x` is not of a float dtype.
    ValueError
        If `p` is no number from 0 to 1.
    TypeError
        If `rng` is no Generator.

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
    if not (isinstance(p, Real) and not isinstance(p, bool) and 0 <= p <= 1):
        raise ValueError(f"{who}: expected a probability p from 0 to 1, got {p!r}")
