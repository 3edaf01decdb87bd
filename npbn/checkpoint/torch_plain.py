"""Plain data beside the tensors: NumPy arrays and numbers, namespaces, sets, bytes, devices.

Each is made here from checked arguments, under the names that pickles use. A namespace, a
``defaultdict`` and a ``Counter`` become a dict, a device and a dtype of torch a string. NumPy's
arrays and numbers are kept.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from npbn.checkpoint.keys import KeyGuard
from npbn.checkpoint.torch_names import Arguments, Builders, Name, Names, short
from npbn.errors import CheckpointError

_CODES = {f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)} | {"b1", "f2", "f4", "f8", "c8", "c16"}
_MOST_DIMENSIONS = 64
_FACTORIES = ("list", "dict", "int", "float", "str", "bool", "tuple")


class PlainData:
    """The globals that one pickle may use for plain data, and the objects on which it sets a state.

    A pickle of a few bytes could ask for the same copy many times. All copies together are limited
    to four times the size of the pickle.

    Parameters
    ----------
    size : int
        Of the pickle, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.builders: Builders = {}
        self._left = 4 * size
        self._keys = KeyGuard(most_large=0)

    def names(self) -> Names:
        """Return the globals that pickles use for plain data."""
        calls: dict[tuple[str, str], Callable[[Arguments], Any]] = {
            ("collections", "OrderedDict"): self._ordered_dict,
            ("collections", "defaultdict"): _default_dict,
            ("collections", "Counter"): _counter,
            ("argparse", "Namespace"): self._namespace,
            ("types", "SimpleNamespace"): self._namespace,
            ("torch", "device"): _device,
            ("_codecs", "encode"): self._encoded,
            ("numpy", "dtype"): self._dtype,
        }
        for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
            calls[core, "_reconstruct"] = self._array
            calls[core, "scalar"] = self._scalar
        for builtins in ("builtins", "__builtin__"):
            calls[builtins, "bytes"] = self._encoded
            calls[builtins, "set"] = calls[builtins, "frozenset"] = self._set
        inert = [("numpy", "ndarray")]
        inert += [(builtins, f) for builtins in ("builtins", "__builtin__") for f in _FACTORIES]
        return {
            **{key: Name(".".join(key), call) for key, call in calls.items()},
            **{key: Name(".".join(key)) for key in inert},
        }

    def _spend(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise CheckpointError("its pickle copies the same values many times")

    # Dictionaries and sets

    def _ordered_dict(self, args: Arguments) -> dict[Any, Any]:
        """Make a dict from nothing, or from a list of pairs, as Python 2 writes it."""
        if args and (len(args) > 1 or type(args[0]) is not list):
            raise CheckpointError("OrderedDict is called with arguments, expected none")
        result: dict[Any, Any] = {}
        for pair in args[0] if args else ():
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise CheckpointError(f"an OrderedDict has {short(pair)}, expected pairs")
            self._spend(1)
            self._keys.check(pair[0])
            result[pair[0]] = pair[1]
        return result

    def _namespace(self, args: Arguments) -> dict[Any, Any]:
        if args:
            raise CheckpointError("a namespace is called with arguments, expected none")
        attributes: dict[str, Any] = {}

        def build(state: Any) -> None:
            if type(state) is not dict or not all(type(key) is str for key in state):
                raise CheckpointError(f"a namespace has {short(state)}, expected names and values")
            self._spend(len(state))
            attributes.update(state)

        self.builders[id(attributes)] = attributes, build
        return attributes

    def _set(self, args: Arguments) -> set[Any]:
        if len(args) > 1 or (args and type(args[0]) is not list):
            raise CheckpointError(f"a set is made of {short(args[0])}, expected a list")
        values = args[0] if args else []
        self._spend(len(values))
        for value in values:
            self._keys.check(value)
        return set(values)

    # Bytes and NumPy

    def _encoded(self, args: Arguments) -> bytes:
        """Make bytes from a text in Latin-1 and the name of that encoding, or from nothing."""
        if not args:
            return b""
        if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
            raise CheckpointError(
                f"bytes are encoded from {', '.join(map(short, args))}, expected a text in latin1"
            )
        self._spend(len(args[0]))
        try:
            return args[0].encode("latin1")
        except UnicodeEncodeError:
            raise CheckpointError("bytes are encoded from characters beyond latin1") from None

    def _dtype(self, args: Arguments) -> "_DType":
        code = args[0] if args else None
        if type(code) is not str or code not in _CODES or len(args) > 3:
            raise CheckpointError(
                f"an array of NumPy has the dtype {short(code)}, expected numbers or booleans"
            )
        dtype = _DType(code)

        def build(state: Any) -> None:
            order: Any = state[1] if type(state) is tuple and len(state) > 1 else None
            if order not in ("<", ">", "|", "="):
                raise CheckpointError(f"a dtype of NumPy has the byte order {short(order)}")
            dtype.order = order

        self.builders[id(dtype)] = dtype, build
        return dtype

    def _array(self, args: Arguments) -> np.ndarray:
        array = np.empty(0, np.uint8)

        def build(state: Any) -> None:
            if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
                raise CheckpointError(f"an array of NumPy has the state {short(state)}")
            _, shape, dtype, fortran, data = state
            values = self._values(dtype, data, shape)
            # Other parts of the state may refer to this array already, so it is changed in place.
            array.__setstate__((1, shape, values.dtype, fortran, values.tobytes()))

        self.builders[id(array)] = array, build
        return array

    def _scalar(self, args: Arguments) -> np.generic:
        if len(args) != 2:
            raise CheckpointError(f"a number of NumPy is made of {len(args)} arguments")
        scalar: np.generic = self._values(*args, ())[0]
        return scalar

    def _values(self, dtype: Any, data: Any, shape: Any) -> np.ndarray:
        """Return the values, 1-D, in native byte order."""
        if type(dtype) is not _DType:
            raise CheckpointError(f"an array of NumPy has the dtype {short(dtype)}")
        if type(data) is not bytes:
            raise CheckpointError(f"an array of NumPy holds {short(data)}, expected bytes")
        if (
            type(shape) is not tuple
            or len(shape) > _MOST_DIMENSIONS
            or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape)
        ):
            raise CheckpointError(f"an array of NumPy has the shape {short(shape)}")
        wanted = np.dtype(dtype.code).newbyteorder(dtype.order)
        if math.prod(shape) * wanted.itemsize != len(data):
            raise CheckpointError(
                f"an array of NumPy, {shape!s:.80} of {wanted}, has {len(data)} bytes"
            )
        self._spend(len(data))
        if wanted.kind == "b" and data.strip(b"\0\1"):
            raise CheckpointError("an array of NumPy holds booleans that are not 0 or 1")
        return np.frombuffer(data, wanted).astype(wanted.newbyteorder("="))


class _DType:
    """A dtype of NumPy as a pickle makes it: from a code, with a byte order as its state."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order: Literal["<", ">", "|", "="] = "="


def _default_dict(args: Arguments) -> dict[Any, Any]:
    if len(args) > 1 or not all(arg is None or isinstance(arg, Name) for arg in args):
        raise CheckpointError("a defaultdict is called with other than a factory")
    return {}


def _counter(args: Arguments) -> dict[Any, Any]:
    if len(args) > 1 or not all(type(arg) is dict for arg in args):
        raise CheckpointError("a Counter is called with other than a dictionary")
    return args[0] if args else {}


def _device(args: Arguments) -> str:
    if not 1 <= len(args) <= 2 or type(args[0]) is not str or len(args[0]) > 80:
        raise CheckpointError(f"a device is called {short(args)}")
    if len(args) == 1:
        return args[0]
    if type(args[1]) is not int or not 0 <= args[1] < 1 << 31:
        raise CheckpointError(f"a device has the number {short(args[1])}")
    return f"{args[0]}:{args[1]}"
