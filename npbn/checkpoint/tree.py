"""Nested state as named arrays and a skeleton that JSON can hold, and back.

In the skeleton None, bools, strings, lists, small integers and finite floats are stored as they
are. Anything else is an object with one key, its type::

    {"array": name}    {"scalar": name}    {"tuple": [...]}    {"dict": {key: value, ...}}
    {"items": [[key, value], ...]}         a dict whose keys are not all strings
    {"set": [...]}    {"bytes": hexadecimal}
    {"int": hexadecimal}                   from 2**53, where JSON readers round
    {"float": hexadecimal}                 infinities and NaN, in eight bytes
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
    """Split a mapping into its arrays by name and a skeleton.

    Arrays at the top level have their keys as names; if there is nothing else, the skeleton is
    None. Nested arrays have their paths as names, ``model/fc1.weight``.

    Raises
    ------
    ValueError
        On anything but plain data and arrays of numbers; the message has its path.

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
        skeleton = _split(state, (), arrays, KeyGuard())
    except RecursionError:
        raise ValueError("the state is nested too deeply, or contains itself") from None
    flat = {"dict": {name: {"array": name} for name in arrays}}
    return arrays, None if skeleton == flat else skeleton


def rebuild(skeleton: Any, arrays: Mapping[str, np.ndarray]) -> dict[Any, Any]:
    """Return the mapping that :func:`flatten` split.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the skeleton is invalid, or an array is missing.
    """
    if skeleton is None:
        return dict(arrays)
    state = _join(skeleton, arrays, KeyGuard())
    if not isinstance(state, dict):
        raise ValueError(f"expected a state that is a dict, got {type(state).__name__}")
    return state


def _split(value: Any, path: tuple[Any, ...], arrays: Arrays, keys: KeyGuard) -> Any:
    if isinstance(value, np.generic):  # some are also float or str
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
        parts = [(key, _split(part, (*path, key), arrays, keys)) for key, part in value.items()]
        if all(type(key) is str for key, _ in parts):
            return {"dict": dict(parts)}
        return {"items": [[_split(key, path, arrays, keys), part] for key, part in parts]}
    if isinstance(value, set | frozenset):
        for element in value:
            keys.check(element)
        return {"set": [_split(v, path, arrays, keys) for v in sorted(value, key=repr)]}
    if isinstance(value, list | tuple):
        parts = [_split(part, (*path, i), arrays, keys) for i, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if hasattr(value, "__array__"):
        return {"array": _stored(value, path, arrays)}
    raise ValueError(
        f"{_where(path)}: expected an array, dict, list, tuple, set, str, bytes, int, float, bool "
        f"or None, got {type(value).__name__}"
    )


def _stored(value: Any, path: tuple[Any, ...], arrays: Arrays) -> str:
    """Add the array to `arrays`, and return its name."""
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
    # Names that zip archives and safetensors support on every system.
    plain = 0 < len(name) <= 200 and name.isprintable() and "\\" not in name
    if not plain or name == "__metadata__":
        name = "array"
    while name in arrays:
        name += f"~{len(arrays)}"
    arrays[name] = array.astype(native, copy=False)
    return name


def _where(path: tuple[Any, ...]) -> str:
    return printable("/".join(map(str, path))) or "the state"


def _join(skeleton: Any, arrays: Mapping[str, np.ndarray], keys: KeyGuard) -> Any:
    if isinstance(skeleton, list):
        return [_join(part, arrays, keys) for part in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    ((tag, body),) = skeleton.items()
    match tag:
        case "array":
            return arrays[body]
        case "scalar":
            return arrays[body][()]
        case "tuple":
            return tuple(_join(body, arrays, keys))
        case "set":
            return {_key(element, keys) for element in body}
        case "dict":
            return {key: _join(part, arrays, keys) for key, part in body.items()}
        case "items":
            return {_key(key, keys): _join(part, arrays, keys) for key, part in body}
        case "bytes":
            return bytes.fromhex(body)
        case "int":
            return int(body, 16)
        case "float":
            return struct.unpack(">d", bytes.fromhex(body))[0]
    raise ValueError(f"the state has a part of unknown type, {quoted(tag)}")


def _key(skeleton: Any, keys: KeyGuard) -> Any:
    key = _join(skeleton, {}, keys)
    keys.check(key)
    return key
