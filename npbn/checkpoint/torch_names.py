"""Globals that a pickle names: they are looked up in a table, and nothing is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Arguments: TypeAlias = tuple[Any, ...]
# By the id of an object that a call has returned: the object, and a function that is called once,
# with the state that the pickle sets on it.
Builders: TypeAlias = dict[int, tuple[Any, Callable[[Any], None]]]


class Label(str):
    """A constant, such as a dtype: a string of another type than the strings in a pickle."""

    __slots__ = ()


class Name:
    """A global on the stack of a pickle.

    Parameters
    ----------
    label : str
        What messages call it.
    call : callable, optional
        Called with the tuple of arguments when the pickle calls the global; it checks them.
    value : object, optional
        The meaning of the global where it is not called.
    """

    __slots__ = ("call", "label", "value")

    def __init__(
        self, label: str, call: Callable[[Arguments], Any] | None = None, value: Any = None
    ) -> None:
        self.label = label
        self.call = call
        self.value = value


Names: TypeAlias = Mapping[tuple[str, str], Name | Label]  # by module and name


def short(value: object) -> str:
    """Return a description of a value from a file, cut to a length that fits into a message."""
    if type(value) is Label:
        return str(value)
    if isinstance(value, str | bytes):
        return repr(value[:80]) + "..." * (len(value) > 80)
    if type(value) is int or type(value) is float:
        return f"{value!r:.80}" + "..." * (len(repr(value)) > 80)
    return value.label if isinstance(value, Name) else type(value).__name__
