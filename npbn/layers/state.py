"""Loading a state: everything is checked before anything is copied."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import StateDictError


class IncompatibleKeys(NamedTuple):
    """What :meth:`Module.load_state_dict` found missing and unexpected."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def numbers(value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return `value` as an array of numbers of this shape, or raise ValueError."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's bfloat16, ragged lists
        raise ValueError(f"expected an array, got {type(value).__name__} ({error})") from error
    if array.shape != shape:
        raise ValueError(f"expected shape {shape}, got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"expected numbers, got dtype {array.dtype}")
    return array


def check_holds(mine: np.ndarray, values: np.ndarray) -> None:
    """Raise ValueError unless `mine` can be written to, and an integer dtype has these values."""
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
    missing = [
        key for key in mine if key not in state and key.rpartition(".")[2] != "num_batches_tracked"
    ]
    unexpected = [key for key in state if key not in mine]
    problems = []
    if strict:
        problems += [f"missing key {key!r}" for key in missing]
        problems += [f"unexpected key {key!r}" for key in unexpected]
    values = {}
    for key in mine.keys() & state.keys():
        try:
            values[key] = numbers(state[key], mine[key].shape)
            check_holds(mine[key], values[key])
        except ValueError as error:
            problems.append(f"{key!r}: {error}")
    if problems:
        raise StateDictError(f"{who}.load_state_dict: " + "; ".join(sorted(problems)))
    for key, value in values.items():
        mine[key][...] = value
    return IncompatibleKeys(missing, unexpected)
