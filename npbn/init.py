"""Initialisation in place, each draw from a Generator that is passed; torch's names and defaults.

The functions fill a Parameter (or an array) and return it. Values are drawn in float64 and
rounded to its dtype, so that one seed gives one network whatever the dtype.
"""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

import math
from typing import TypeVar

import numpy as np

from npbn.errors import ShapeError
from npbn.rng import generator

__all__ = ["calculate_fan_in", "kaiming_uniform_", "normal_", "uniform_"]

Fillable = TypeVar("Fillable")  # a Parameter or an ndarray: np.asarray shares its memory


def calculate_fan_in(parameter: Fillable) -> int:
    """Return the number of inputs that one output of a weight sums over.

    Parameters
    ----------
    parameter : Parameter or ndarray, shape (out, in, ...)

    Raises
    ------
    ShapeError
        If it has fewer than two axes.
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
    """Fill with draws from U(a, b); return it."""
    return _filled(parameter, generator(rng).uniform(a, b, parameter.shape))


def normal_(
    parameter: Fillable,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    rng: np.random.Generator | None = None,
) -> Fillable:
    """Fill with draws from the normal distribution N(mean, std²); return it."""
    return _filled(parameter, generator(rng).normal(mean, std, parameter.shape))


def kaiming_uniform_(
    parameter: Fillable, a: float = 0.0, *, rng: np.random.Generator | None = None
) -> Fillable:
    """Fill with draws from U(−bound, bound), bound = sqrt(6 / ((1 + a²) fan_in)).

    K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section 2.2. With
    a = √5 the bound is 1 / sqrt(fan_in): torch's default for the weight of a Linear.

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


def _filled(parameter: Fillable, values: np.ndarray) -> Fillable:
    np.asarray(parameter)[...] = values
    if not isinstance(parameter, np.ndarray):
        parameter.changed()
    return parameter
