"""Loading a state: everything is checked before anything is copied."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.arrays import as_array
from npbn.errors import StateDictError
from npbn.quoting import quoted

_SHOWN = 20  # problems in one message
# What wrappers put before every key of the network that they wrap.
WRAPPERS = ("module.", "_orig_mod.", "model.")


class IncompatibleKeys(NamedTuple):
    """What :meth:`Module.load_state_dict` found missing and unexpected."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def check_shapes(
    who: str,
    expected: Mapping[str, tuple[int, ...]],
    state: Mapping[str, ArrayLike],
    strict: bool = True,
) -> tuple[dict[str, np.ndarray], IncompatibleKeys]:
    """Return the values of the keys that are expected, and the keys that do not agree.

    Raises
    ------
    StateDictError
        One that names keys that are missing, unexpected or of another shape; the first of them,
        if they are many.
    """
    missing = [
        key
        for key in expected
        if key not in state and key.rpartition(".")[2] != "num_batches_tracked"
    ]
    unexpected = [key for key in state if key not in expected]
    problems = []
    if strict:
        problems += [f"missing key {quoted(key)}" for key in missing]
        problems += [f"unexpected key {quoted(key)}" for key in unexpected]
    values = {}
    for key in expected.keys() & state.keys():
        try:
            values[key] = numbers(state[key], expected[key])
        except ValueError as error:
            problems.append(f"{quoted(key)}: {error}")
    raise_all(who, problems, advice(state) if strict and unexpected else "")
    return values, IncompatibleKeys(missing, unexpected)


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
    """Return how to reach the state that this one, of a training program, has within it."""
    keys = list(map(str, state))
    for prefix in WRAPPERS:
        if keys and all(key.startswith(prefix) for key in keys):
            return f" (all keys begin with {prefix!r}: npbn.load(path, strip_prefix={prefix!r}))"
    within = [str(key) for key, value in state.items() if isinstance(value, Mapping) and value]
    if within:
        return f" (there are mappings within: npbn.load(path, key={quoted(within[0])}))"
    return ""


@np.errstate(all="ignore")
def load_state(
    who: str, mine: Mapping[str, np.ndarray], state: Mapping[str, ArrayLike], strict: bool
) -> IncompatibleKeys:
    """Copy the values of `state` into the arrays of `mine`, in place, or raise StateDictError.

    `who` names the module in the message; see :meth:`npbn.Module.load_state_dict`.
    """
    who = f"{who}.load_state_dict"
    shapes = {key: array.shape for key, array in mine.items()}
    values, incompatible = check_shapes(who, shapes, state, strict)
    raise_all(who, [p for key in values if (p := _obstacle(key, mine[key], values[key]))])
    for key, value in values.items():
        mine[key][...] = value
    return incompatible


def _obstacle(key: str, mine: np.ndarray, value: np.ndarray) -> str | None:
    """Return why a value of the right shape cannot be copied, or None if it can."""
    if not mine.flags.writeable:
        return f"{key!r}: the module's own array is read-only"
    if mine.dtype.kind in "iu" and mine.size:
        least, most = np.iinfo(mine.dtype).min, np.iinfo(mine.dtype).max
        if not all(least <= number <= most for number in value.ravel().tolist()):  # NaN is not
            return f"{key!r}: expected integers, got {quoted(value)}"
    return None
