"""Loading a state: everything is checked before anything is copied."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import StateDictError
from npbn.io.arrays import as_array
from npbn.io.quoting import quoted

_SHOWN = 20  # problems in one message
# Prefixes that wrappers add to all keys of the network that they wrap.
WRAPPERS = ("module.", "_orig_mod.", "model.")


class IncompatibleKeys(NamedTuple):
    """What :meth:`npbn.Module.load_state_dict` returns: keys that do not match, if not strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def check_shapes(
    who: str, expected: Mapping[str, tuple[int, ...]], state: Mapping[str, ArrayLike]
) -> None:
    """Raise StateDictError unless the state has these keys, with arrays of these shapes."""
    _, incompatible, problems = _compared(expected, state, strict=True)
    raise_all(who, problems, advice(state) if incompatible.unexpected_keys else "")


def numbers(value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return `value` as an array of numbers of this shape, or raise ValueError."""
    array = as_array(value)
    if array.shape != shape:
        raise ValueError(f"expected shape {shape}, got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"expected numbers, got dtype {array.dtype}")
    return array


def raise_all(who: str, problems: list[str], more: str = "") -> None:
    """Raise StateDictError with the first of these problems, if there are any."""
    if problems:
        rest = len(problems) - _SHOWN
        shown = [*sorted(problems)[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
        raise StateDictError(f"{who}: {'; '.join(shown)}{more}")


def advice(state: Mapping[str, ArrayLike]) -> str:
    """Return a hint for a state with a prefix, or with the network's state under a key."""
    keys = list(map(str, state))
    for prefix in WRAPPERS:
        if keys and all(key.startswith(prefix) for key in keys):
            return f" (all keys begin with {prefix!r}: npbn.load(path, strip_prefix={prefix!r}))"
    within = [str(key) for key, value in state.items() if isinstance(value, Mapping) and value]
    if within:
        return f" (there are mappings within: npbn.load(path, key={quoted(within[0])}))"
    return ""


def check_holds(mine: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError unless `mine` can be written to and its dtype can hold the values."""
    if not mine.flags.writeable:
        raise ValueError("expected an array that can be written to, got a read-only one")
    if mine.dtype.kind in "iu":
        limits = np.iinfo(mine.dtype)
        wrong = ~((values >= limits.min) & (values < limits.max + 1))  # NaN too
        if wrong.any():
            raise ValueError(f"expected values of {mine.dtype}, got {values[wrong].flat[0]}")


@np.errstate(all="ignore")
def load_state(
    who: str, mine: Mapping[str, np.ndarray], state: Mapping[str, ArrayLike], strict: bool
) -> IncompatibleKeys:
    """Copy the values of `state` into the arrays of `mine`, in place, or raise StateDictError.

    `who` names the module in the message; see :meth:`npbn.Module.load_state_dict`.
    """
    shapes = {key: array.shape for key, array in mine.items()}
    values, incompatible, problems = _compared(shapes, state, strict)
    for key, value in values.items():
        try:
            check_holds(mine[key], value)
        except ValueError as error:
            problems.append(f"{quoted(key)}: {error}")
    more = advice(state) if strict and incompatible.unexpected_keys else ""
    raise_all(f"{who}.load_state_dict", problems, more)
    for key, value in values.items():
        mine[key][...] = value
    return incompatible


def _compared(
    expected: Mapping[str, tuple[int, ...]], state: Mapping[str, ArrayLike], strict: bool
) -> tuple[dict[str, np.ndarray], IncompatibleKeys, list[str]]:
    """Return the expected values, the keys that do not match, and the problems."""
    missing = [
        key
        for key in expected
        if key not in state and key.rpartition(".")[2] != "num_batches_tracked"
    ]
    unexpected = [key for key in state if key not in expected]
    problems: list[str] = []
    if strict:
        problems += [f"missing key {quoted(key)}" for key in missing]
        problems += [f"unexpected key {quoted(key)}" for key in unexpected]
    values = {}
    for key in expected.keys() & state.keys():
        try:
            values[key] = numbers(state[key], expected[key])
        except ValueError as error:
            problems.append(f"{quoted(key)}: {error}")
    return values, IncompatibleKeys(missing, unexpected), problems
