"""Checks of arguments that are integers, real numbers or booleans.

A wrong one raises ValueError where it is passed, not in a later call.
"""

from numbers import Integral, Real
from typing import Any

import numpy as np


def is_integer(value: object) -> bool:
    """Return whether `value` is an integer of Python's or NumPy's types; booleans are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_integer(who: str, name: str, value: Any, least: int | None = None) -> None:
    """Raise ValueError unless `value` is an integer, of at least `least`.

    Parameters
    ----------
    who, name : str
        The function or class and its argument, for the message.
    value : object
        Python's and NumPy's integers pass; booleans do not.
    least : int, optional
    """
    if not is_integer(value) or (least is not None and value < least):
        limit = "" if least is None else f" of at least {least}"
        raise ValueError(f"{who}: expected {name} to be an integer{limit}, got {value!r}")


def check_number(who: str, name: str, value: Any, least: float | None = None) -> None:
    """Raise ValueError unless `value` is a real number, of at least `least`.

    Parameters
    ----------
    who, name : str
        The function or class and its argument, for the message.
    value : object
        Python's and NumPy's numbers pass; booleans do not. NaN passes where there is no limit.
    least : float, optional
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or (least is not None and not value >= least):
        limit = "" if least is None else f" of at least {least}"
        raise ValueError(f"{who}: expected {name} to be a number{limit}, got {value!r}")


def check_bool(who: str, name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False, of Python's or NumPy's type.

    Parameters
    ----------
    who, name : str
        The function or class and its argument, for the message.
    value : object
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{who}: expected {name} to be True or False, got {value!r}")
