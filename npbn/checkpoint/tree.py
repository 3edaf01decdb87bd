"""Nested state as named arrays and a skeleton that JSON can hold, and back.

In the skeleton None, bools, strings, lists, small integers and finite floats stand for
themselves. All else is an object of one key that tells what it is::

    {"array": name}    {"scalar": name}    {"tuple": [...]}    {"dict": {key: value, ...}}
    {"items": [[key, value], ...]}         a dict whose keys are not all strings
    {"set": [...]}    {"bytes": hexadecimal}
    {"int": hexadecimal}                   2**53 and above, where JSON readers begin to round
    {"float": hexadecimal}                 infinities and NaN, by their eight bytes
"""

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from npbn.checkpoint.keys import KINDS, KeyGuard
from npbn.io.arrays import as_array
from npbn.io.quoting import printable, quoted

Arrays = dict[str, np.ndarray]
DTYPES = {np.dtype(code) for code in ("?", *"bhilq", *"BHILQ", *"efdFD")}
_EXACT = 1 << 53


def flatten(state: Any) -> tuple[Arrays, Any]:
    """Take a mapping apart into its arrays by name and a skeleton.

    Arrays on the top level are named by their keys; if there is nothing else, the skeleton is
    None. Those below are named by their path, ``model/fc1.weight``.

    Raises
    ------
    ValueError
        On anything that is no plain data and no array of numbers; the message tells where.

    Examples
    --------
    >>> arrays, skeleton = flatten({"net": {"bias": np.zeros(2)}, "epochs": (1, 2)})
    >>> arrays
    {'net/bias': array([0., 0.])}
    >>> skeleton
    {'dict': {'net': {'dict': {'bias': {'array': 'net/bias'}}}, 'epochs': {'tuple': [1, 2]}}}
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"expected a state_dict, mapping or Module, got {type(state).__name__}")
    arrays: Arrays = {}
    try:
        skeleton = _taken_apart(state, (), arrays, KeyGuard())
    except RecursionError:
        raise ValueError("the state is nested too deeply, or contains itself") from None
    flat = {"dict": {name: {"array": name} for name in arrays}}
    return arrays, None if skeleton == flat else skeleton


def rebuild(skeleton: Any, arrays: Mapping[str, np.ndarray]) -> dict[Any, Any]:
    """Put together what :func:`flatten` took apart.

    Raises
    ------
    ValueError, KeyError, TypeError
        If there is no such skeleton, or an array is missing.
    """
    if skeleton is None:
        return dict(arrays)
    state = _put_together(skeleton, arrays, KeyGuard())
    if not isinstance(state, dict):
        raise ValueError(f"the state should be a dict, not {type(state).__name__}")
    return state


def _taken_apart(value: Any, path: tuple[Any, ...], arrays: Arrays, keys: KeyGuard) -> Any:
    if isinstance(value, np.generic):  # some are floats or strings too
        return {"scalar": _stored(value, path, arrays)}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, int):
        return int(value) if -_EXACT < value < _EXACT else {"int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in KINDS:
                raise ValueError(f"{_where(path)}: expected keys of str or int, got {quoted(key)}")
            keys.check(key)
        parts = [
            (key, _taken_apart(part, (*path, key), arrays, keys)) for key, part in value.items()
        ]
        if all(type(key) is str for key, _ in parts):
            return {"dict": dict(parts)}
        return {"items": [[_taken_apart(key, path, arrays, keys), part] for key, part in parts]}
    if isinstance(value, set | frozenset):
        for element in value:
            keys.check(element)
        return {"set": [_taken_apart(v, path, arrays, keys) for v in sorted(value, key=repr)]}
    if isinstance(value, list | tuple):
        parts = [_taken_apart(part, (*path, i), arrays, keys) for i, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if hasattr(value, "__array__"):
        return {"array": _stored(value, path, arrays)}
    raise ValueError(
        f"{_where(path)}: expected an array, dict, list, tuple, set, str, bytes, int, float, bool "
        f"or None, got {type(value).__name__}"
    )


def _stored(value: Any, path: tuple[Any, ...], arrays: Arrays) -> str:
    """Put the array in among the others, and return its name there."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{_where(path)}: expected an array without a mask; use .filled()")
    try:
        array = as_array(value)
    except ValueError as error:
        raise ValueError(f"{_where(path)}: {error}") from error
    native = array.dtype.newbyteorder("=")
    if native not in DTYPES:
        raise ValueError(
            f"{_where(path)}: expected an array of floats, complex numbers, integers or bool, "
            f"got dtype {array.dtype}"
        )
    name = "/".join(map(str, path))
    # What zip archives and safetensors can both have as a name, on every system.
    plain = 0 < len(name) <= 200 and name.isprintable() and "\\" not in name
    if not plain or name == "__metadata__":
        name = "array"
    while name in arrays:
        name += f"~{len(arrays)}"
    arrays[name] = array.astype(native, copy=False)
    return name


def _where(path: tuple[Any, ...]) -> str:
    return printable("/".join(map(str, path))) or "the state"


def _put_together(skeleton: Any, arrays: Mapping[str, np.ndarray], keys: KeyGuard) -> Any:
    if isinstance(skeleton, list):
        return [_put_together(part, arrays, keys) for part in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    ((tag, body),) = skeleton.items()
    match tag:
        case "array":
            return arrays[body]
        case "scalar":
            return arrays[body][()]
        case "tuple":
            return tuple(_put_together(body, arrays, keys))
        case "set":
            return {_key(element, keys) for element in body}
        case "dict":
            return {key: _put_together(part, arrays, keys) for key, part in body.items()}
        case "items":
            return {_key(key, keys): _put_together(part, arrays, keys) for key, part in body}
        case "bytes":
            return bytes.fromhex(body)
        case "int":
            return int(body, 16)
        case "float":
            return struct.unpack(">d", bytes.fromhex(body))[0]
    raise ValueError(f"the state has a part of unknown kind, {quoted(tag)}")


def _key(skeleton: Any, keys: KeyGuard) -> Any:
    key = _put_together(skeleton, {}, keys)
    keys.check(key)
    return key
