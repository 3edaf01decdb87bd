"""Where frameworks differ on BatchNorm, as data, and conversions between them.

All normalise by the biased variance Σ (x − mean)² / n, and all average the running
statistics exponentially. They differ in what *momentum* weighs (the new value or the old
one), in which variance they *store* (biased, or unbiased: · n / (n − 1)), in the pass that
moves the statistics, and in the defaults. :data:`CONVENTIONS` has each with its source.

For inference alone convert nothing: the same stored numbers with the same eps give the same
output everywhere. Conversions are for training on, and for comparing what training stored.
"""

import operator
from fractions import Fraction
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from npbn.testing.convention_table import CONVENTIONS, Convention, find_convention

__all__ = ["CONVENTIONS", "Convention", "convert", "convert_momentum", "convert_running_var"]


def convert_momentum(
    momentum: float | None, source: str | Convention, target: str | Convention
) -> float | None:
    """Return the momentum that gives the target what `momentum` gives the source.

    Parameters
    ----------
    momentum : float or None
        In [0, 1]; None is the plain average of all batches.
    source, target : str or Convention
        A key of :data:`CONVENTIONS`, or a convention of your own.

    Returns
    -------
    float or None
        `momentum`, or 1 − `momentum` taken of its decimal digits: 0.99 gives 0.01, not
        0.010000000000000009.

    Raises
    ------
    ValueError
        On a momentum outside [0, 1] (it is no weight of an average), on None where one of
        the two frameworks has no such option, and on an unknown name.
    TypeError
        On a momentum that is no number.

    Examples
    --------
    >>> convert_momentum(0.1, "pytorch", "keras")
    0.9
    """
    source, target = find_convention(source), find_convention(target)
    if momentum is None:
        for side in (source, target):
            if not side.cumulative:
                raise ValueError(
                    f"momentum=None, the plain average of all batches, is unknown to {side.name}: "
                    "convert 1 / t for the t-th batch instead, a new value at each step"
                )
        return None
    if not isinstance(momentum, Real) or isinstance(momentum, bool):
        raise TypeError(f"expected momentum to be a number or None, got {momentum!r}")
    momentum = float(momentum)
    if not 0 <= momentum <= 1:
        raise ValueError(f"expected momentum in [0, 1], the weight of an average, got {momentum}")
    if source.momentum_weighs == target.momentum_weighs:
        return momentum
    return float(1 - Fraction(repr(momentum)))


def convert_running_var(
    running_var: ArrayLike,
    count: int | None,
    source: str | Convention,
    target: str | Convention,
    *,
    initial: ArrayLike = 0.0,
) -> np.ndarray:
    """Return the running variance that the target would have stored.

    With n = `count`, an unbiased variance is n / (n − 1) times the biased one, and so is an
    average of unbiased ones, whatever the momentum, **if n was the same in every batch** that
    was averaged. Batches of different sizes have different factors, which the average does
    not keep: the result is then exact only up to the spread of n.

    The average also contains the rest of its initial value (1, in all of these frameworks),
    which is the variance of no batch and is not multiplied. That is
    ``(1 − w)^steps`` with w the weight of the new value: nothing after a few hundred batches,
    nothing with momentum None. Given as `initial`, it is not converted, and the conversion is
    exact, but for rounding, from the first step on.

    Parameters
    ----------
    running_var : array_like
        What the source stored.
    count : int or None
        n: the values per channel of a batch, N · L or N · H · W; at least 2. None is allowed
        where both store the same.
    source, target : str or Convention
        A key of :data:`CONVENTIONS`, or a convention of your own.
    initial : array_like, optional
        The rest of the initial value in `running_var`.

    Returns
    -------
    ndarray, shape of running_var
        A new array of `running_var`'s dtype (float64 if that is no floating-point type),
        computed in float64.

    Raises
    ------
    ValueError
        On a count below 2 (one value has no unbiased variance) or missing where it is needed,
        and on an unknown name.
    TypeError
        On a count that is no integer.

    Examples
    --------
    >>> convert_running_var([3.0, 6.0], 4, "keras", "pytorch")
    array([4., 8.])
    """
    source, target = find_convention(source), find_convention(target)
    given = np.asarray(running_var)
    dtype = given.dtype if np.issubdtype(given.dtype, np.floating) else np.dtype(np.float64)
    if source.stores == target.stores:
        return np.array(given, dtype)
    if count is None:
        raise ValueError(
            f"{source.name} stores the {source.stores} variance and {target.name} the "
            f"{target.stores} one: expected count, the values per channel of a batch, got None"
        )
    count = operator.index(count)
    if count < 2:
        raise ValueError(
            f"expected count of at least 2, the values per channel of a batch, got {count}: "
            "there is no unbiased variance of one value"
        )
    up = target.stores == "unbiased"
    numerator, denominator = (count, count - 1) if up else (count - 1, count)
    with np.errstate(all="ignore"):
        offset = np.asarray(initial)
        measured = given.astype(np.float64) - offset
        return np.asarray(measured * (numerator / denominator) + offset).astype(dtype)


def convert(
    momentum: float | None,
    running_var: ArrayLike,
    source: str | Convention,
    target: str | Convention,
    count: int | None = None,
    *,
    initial: ArrayLike = 0.0,
) -> tuple[float | None, np.ndarray]:
    """Return momentum and running variance as the target has them.

    See :func:`convert_momentum` and :func:`convert_running_var`, which says when this is exact.
    Mean, weight and bias are the same everywhere; so is eps, once it is written out.

    Examples
    --------
    >>> convert(0.99, [3.0], "keras", "pytorch", count=4)
    (0.01, array([4.]))
    """
    return (
        convert_momentum(momentum, source, target),
        convert_running_var(running_var, count, source, target, initial=initial),
    )
