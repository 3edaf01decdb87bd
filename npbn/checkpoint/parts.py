"""The state in what a training program saved: ``{"state_dict": {"module.fc.weight": ...}}``."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from npbn.errors import CheckpointError
from npbn.io.quoting import printable, quoted

_DEEPEST = 3  # levels of nested mappings that are searched for a state


def part(state: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    """Return the mapping under a key; dots separate the keys of nested mappings.

    Raises
    ------
    CheckpointError
        If there is none; the message lists what there is.
    """
    found: Any = state.get(key)
    if found is None:
        first, _, rest = key.partition(".")
        if rest and isinstance(state.get(first), Mapping):
            return part(state[first], rest)
        raise CheckpointError(f"there is no {quoted(key)} in it, {contents(state)}")
    if not isinstance(found, Mapping):
        raise CheckpointError(f"expected a mapping as {quoted(key)}, got {described(found)}")
    return found


def stripped(state: Mapping[Any, Any], prefix: str) -> dict[Any, Any]:
    """Return the state without a prefix of its keys, which all have to begin with it."""
    others = [key for key in state if not str(key).startswith(prefix)]
    if others:
        raise CheckpointError(f"the key {quoted(others[0])} does not begin with {quoted(prefix)}")
    return {str(key).removeprefix(prefix): value for key, value in state.items()}


def states_within(state: Mapping[Any, Any], path: str = "", depth: int = 1) -> Iterator[str]:
    """Yield the dotted keys of nested mappings that hold only arrays."""
    for name, value in state.items():
        if isinstance(value, Mapping) and value:
            if all(isinstance(array, np.ndarray) for array in value.values()):
                yield f"{path}{name}"
            elif depth < _DEEPEST:
                yield from states_within(value, f"{path}{name}.", depth + 1)


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
