"""The state in what a training program saved: ``{"state_dict": {"module.fc.weight": ...}}``."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from npbn.errors import CheckpointError
from npbn.io.quoting import LONGEST, printable, quoted

_DEEPEST = 3  # levels of nested mappings that are searched for a state
_MOST = 5  # states that are offered


def part(state: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    r"""Return the mapping under a key; dots separate the keys of nested mappings.

    Keys may contain dots themselves, be numbers, or be given as they are printed (``a\nb``). The
    first mapping that fits is returned, one at this level before those within others.

    Raises
    ------
    CheckpointError
        If there is none; the message lists what there is.
    """
    found = [value for name, value in state.items() if key in (str(name), _shown(name))]
    for value in found:
        if isinstance(value, Mapping):
            return value
    expected = f"expected a mapping as {quoted(key)}, got {described(found[0])}" if found else ""
    error = CheckpointError(expected or f"there is no {quoted(key)} in it, {contents(state)}")
    for name, value in state.items():
        for start in (f"{name}.", f"{_shown(name)}."):
            if isinstance(value, Mapping) and key.startswith(start):
                try:
                    return part(value, key.removeprefix(start))
                except CheckpointError as inner:
                    error = inner if not found else error
    raise error


def stripped(state: Mapping[Any, Any], prefix: str) -> dict[Any, Any]:
    """Return the state without a prefix of its keys, which all have to begin with it."""
    others = [key for key in state if not str(key).startswith(prefix)]
    if others:
        raise CheckpointError(f"the key {quoted(others[0])} does not begin with {quoted(prefix)}")
    return {str(key).removeprefix(prefix): value for key, value in state.items()}


def states_within(state: Mapping[Any, Any]) -> list[tuple[str, Mapping[Any, Any]]]:
    """Return the first nested mappings that hold only arrays, with the keys that reach them."""
    found = itertools.islice(_states(state, "", 1), _MOST)
    # Another mapping of the same name, such as "1" beside 1, may come first.
    return [(key, at) for key, at in found if len(key) <= LONGEST and part(state, key) is at]


def _states(
    state: Mapping[Any, Any], path: str, depth: int
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for name, value in state.items():
        if isinstance(value, Mapping) and value:
            if all(isinstance(array, np.ndarray) for array in value.values()):
                yield f"{path}{_shown(name)}", value
            elif depth < _DEEPEST:
                yield from _states(value, f"{path}{_shown(name)}.", depth + 1)


def _shown(key: Any) -> str:
    return printable(str(key), None)


def contents(state: Mapping[Any, Any]) -> str:
    """Return the first entries of a mapping as text."""
    first = [f"{printable(str(key))}: {described(value)}" for key, value in list(state.items())[:8]]
    return f"only {', '.join(first)}{', ...' * (len(state) > 8)}" if first else "it is empty"


def described(value: Any) -> str:
    """Return the type and size of a value as text."""
    match value:
        case np.ndarray():
            return f"an array {value.dtype} {value.shape}"
        case Mapping():
            return f"a mapping of {len(value)}"
        case list() | tuple() | set():
            return f"a {type(value).__name__} of {len(value)}"
    return quoted(value)
