"""Initialisation in place, with torch's names and defaults.

The functions fill a Parameter or an array with numbers from a Generator, and return it. They draw
float64 and round to its dtype: a seed gives the same network in each dtype.
"""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

import math
from typing import Protocol, TypeVar

import numpy as np

from npbn.errors import ShapeError
from npbn.rng import generator

__all__ = ["calculate_fan_in", "kaiming_uniform_", "normal_", "uniform_"]


class _Parameter(Protocol):
    """A :class:`npbn.Parameter`: ``np.asarray`` shares its memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def changed(self) -> None: ...


Fillable = TypeVar("Fillable", bound=_Parameter | np.ndarray)


def calculate_fan_in(parameter: Fillable) -> int:
    """Return the number of terms in each sum that a weight computes.

    Parameters
    ----------
    parameter : Parameter or ndarray, shape (out, in, ...)
        A weight.

    Returns
    -------
    int
        The product of all axes but the first.

    Raises
    ------
    ShapeError
        If it has fewer than two axes.

    Examples
    --------
    >>> calculate_fan_in(np.empty((8, 4, 3, 3)))
    36
    """
    if len(parameter.shape) < 2:
        raise ShapeError(f"calculate_fan_in: expected shape (out, in, ...), got {parameter.shape}")
    return math.prod(parameter.shape[1:])


def uniform_(
    parameter: Fillable,
    a: float = 0.0,
    b: float = 1.0,
    *,
    rng: np.random.Generator | None = None,
) -> Fillable:
    """Fill with numbers from the uniform distribution U(a, b); return the parameter.

    Parameters
    ----------
    parameter : Parameter or ndarray
        Changed in place.
    a, b : float
        Limits.
    rng : numpy.random.Generator, optional
        None is a new ``np.random.default_rng()``.

    Returns
    -------
    Parameter or ndarray
        `parameter`.

    Examples
    --------
    >>> values = uniform_(np.empty(1000), -2, 2, rng=np.random.default_rng(0))
    >>> bool((abs(values) <= 2).all())
    True
    """
    return _filled(parameter, generator(rng).uniform(a, b, parameter.shape))


def normal_(
    parameter: Fillable,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    rng: np.random.Generator | None = None,
) -> Fillable:
    """Fill with numbers from the normal distribution N(mean, std²); return the parameter.

    Parameters
    ----------
    parameter : Parameter or ndarray
        Changed in place.
    mean, std : float
        Mean and standard deviation.
    rng : numpy.random.Generator, optional
        None is a new ``np.random.default_rng()``.

    Returns
    -------
    Parameter or ndarray
        `parameter`.

    Examples
    --------
    >>> values = normal_(np.empty(100), mean=3.0, std=0.0, rng=np.random.default_rng(0))
    >>> bool((values == 3).all())
    True
    """
    return _filled(parameter, generator(rng).normal(mean, std, parameter.shape))


def kaiming_uniform_(
    parameter: Fillable, a: float = 0.0, *, rng: np.random.Generator | None = None
) -> Fillable:
    """Fill with numbers from U(−bound, bound), bound = sqrt(6 / ((1 + a²) fan_in)).

    With a = √5 the bound is 1 / sqrt(fan_in): torch's default for the weight of a Linear.

    Parameters
    ----------
    parameter : Parameter or ndarray, shape (out, in, ...)
        Changed in place.
    a : float
        Slope, for negative inputs, of the leaky ReLU after the layer.
    rng : numpy.random.Generator, optional
        None is a new ``np.random.default_rng()``.

    Returns
    -------
    Parameter or ndarray
        `parameter`.

    Raises
    ------
    ShapeError
        If it has fewer than two axes.

    References
    ----------
    K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section 2.2.

    Examples
    --------
    >>> import math, numpy as np
    >>> p = kaiming_uniform_(np.empty((8, 4)), math.sqrt(5), rng=np.random.default_rng(0))
    >>> bool((abs(p) <= 1 / math.sqrt(4)).all())
    True
    """
    fan_in = calculate_fan_in(parameter)
    bound = math.sqrt(6 / ((1 + a * a) * fan_in)) if fan_in else 0.0
    return uniform_(parameter, -bound, bound, rng=rng)


@np.errstate(all="ignore")  # beyond float16 it is infinite, as in torch
def _filled(parameter: Fillable, values: np.ndarray) -> Fillable:
    np.asarray(parameter)[...] = values
    if not isinstance(parameter, np.ndarray):
        parameter.changed()
    return parameter
