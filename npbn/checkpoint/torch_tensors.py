"""The tensors of a torch file as arrays: views of its bytes, each checked before it is made.

In the pickle a storage is the persistent id ``("storage", type, key, device, number)``. Its bytes
are the record ``data/key``. A tensor is a call of ``torch._utils._rebuild_tensor_v2`` with its
storage, offset, sizes and strides, counted in elements; ``_v3`` is used for dtypes without a
storage type, and has the dtype as a further argument. torch and NumPy have the same names of
dtypes, except bfloat16, the upper half of a float32, which is widened to float32.
"""

import math
import sys
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from npbn.checkpoint.torch_names import Arguments, Label, Name, Names, short
from npbn.checkpoint.torch_zip import Bytes, Record
from npbn.errors import CheckpointError

_EXPANDED = 1 << 28  # bytes, above eight times the file, of copies of all tensors
_MOST_DIMENSIONS = 64  # NumPy's limit, and torch's
_ALIGNED = 8
_BFLOAT16 = "bfloat16"
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_DTYPES = {
    name: np.dtype(name)
    for name in ("bool", "float16", "float32", "float64", "complex64", "complex128", *_INTEGERS)
} | {_BFLOAT16: np.dtype("uint16")}
_STORAGES = {
    "BFloat16Storage": _BFLOAT16,
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}


class Tensors:
    """The storages and tensors of one file.

    Parameters
    ----------
    file : bytearray or mmap
        Writable. The arrays are views of it.
    records : mapping of str to Record
        The positions of the storages, ``data/0``, ...
    order : {'little', 'big'}
        The byte order of the storages.
    checked : bool
        Whether the checksums of the storages are compared, which reads them.
    """

    def __init__(
        self, file: Bytes, records: Mapping[str, Record], order: str, checked: bool
    ) -> None:
        self._file = file
        self._records = records
        self._order = order
        self._checked = checked
        self._raw: dict[str, np.ndarray] = {}  # the bytes of each storage by key
        self._elements: dict[_Storage, np.ndarray] = {}
        self._converted: set[str] = set()
        self._copied_out = 0

    def names(self) -> Names:
        """Return the globals that pickles use for tensors."""
        utils = {
            "_rebuild_tensor": self._tensor_v1,
            "_rebuild_tensor_v2": self._tensor_v2,
            "_rebuild_tensor_v3": self._tensor_v3,
            "_rebuild_parameter": _parameter,
        }
        return {
            **{("torch._utils", name): Name(name, call) for name, call in utils.items()},
            ("torch", "Size"): Name("torch.Size", _size),
            ("torch.storage", "UntypedStorage"): Name(
                "torch.storage.UntypedStorage", value=_StorageType(None)
            ),
            **{
                ("torch", name): Name(f"torch.{name}", value=_StorageType(dtype))
                for name, dtype in _STORAGES.items()
            },
            **{("torch", dtype): Label(f"torch.{dtype}") for dtype in _DTYPES},
        }

    def storage(self, persistent_id: Any) -> "_Storage":
        """Return the storage of a persistent id."""
        if type(persistent_id) is not tuple or len(persistent_id) != 5:
            raise CheckpointError(f"a persistent id is {short(persistent_id)}, expected a storage")
        tag, kind, key, device, number = persistent_id
        storage_type = kind.value if isinstance(kind, Name) else None
        if (
            (type(tag), type(key), type(device), type(number)) != (str, str, str, int)
            or tag != "storage"
            or not isinstance(storage_type, _StorageType)
        ):
            values = ", ".join(map(short, persistent_id))
            raise CheckpointError(f"a persistent id is ({values}), expected a storage")
        if device == "meta":
            raise CheckpointError("it contains a tensor on the meta device, which has no values")
        raw = self._bytes(key)
        if number != raw.size // storage_type.itemsize:
            raise CheckpointError(
                f"the record 'data/{key}' has {raw.size} bytes, but its tensors expect "
                f"{short(number)} elements of {kind.label}"
            )
        return _Storage(key, storage_type.dtype)

    def _bytes(self, key: str) -> np.ndarray:
        if key not in self._raw:
            record = self._records.get(f"data/{key[:80]}")
            if record is None:
                raise CheckpointError(f"it lacks the record of a storage, 'data/{key[:80]}'")
            view = memoryview(self._file)[record.offset : record.offset + record.size]
            if self._checked:
                check_crc(f"data/{key}", view, record)
            raw = np.frombuffer(view, np.uint8)
            # In files of torch before 1.6 storages are not aligned; an aligned copy is faster.
            aligned = raw.__array_interface__["data"][0] % _ALIGNED == 0
            self._raw[key] = raw if aligned else raw.copy()
        return self._raw[key]

    def _elements_of(self, storage: "_Storage") -> np.ndarray:
        """Return the elements of a storage, in native byte order and a dtype of NumPy."""
        if storage in self._elements:
            return self._elements[storage]
        key, name = storage.key, str(storage.dtype)
        dtype = _DTYPES[name]
        raw = self._bytes(key)
        array = raw[: raw.size // dtype.itemsize * dtype.itemsize].view(dtype)
        if name == "bool" and raw.max(initial=0) > 1:  # other booleans are undefined in C
            raise CheckpointError(f"the record 'data/{key}' holds booleans that are not 0 or 1")
        swap = self._order != sys.byteorder and dtype.itemsize > 1
        if swap or name == _BFLOAT16:
            if key in self._converted:  # limits the number of copies
                raise CheckpointError(f"the storage 'data/{key}' is used with several dtypes")
            self._converted.add(key)
        if swap:
            array = array.byteswap()
        if name == _BFLOAT16:
            wide = array.astype(np.uint32)
            np.left_shift(wide, 16, out=wide)
            array = wide.view(np.float32)
        self._elements[storage] = array
        return array

    def _tensor_v1(self, args: Arguments) -> np.ndarray:
        """Make a tensor from storage, offset, size and stride."""
        if len(args) != 4:
            raise CheckpointError(f"_rebuild_tensor is called with {len(args)} arguments")
        return self._tensor((*args, False, {}), (), None)

    def _tensor_v2(self, args: Arguments) -> np.ndarray:
        """Make a tensor from these, requires_grad, hooks and optional metadata."""
        if not 6 <= len(args) <= 7:
            raise CheckpointError(f"_rebuild_tensor_v2 is called with {len(args)} arguments")
        return self._tensor(args[:6], args[6:], None)

    def _tensor_v3(self, args: Arguments) -> np.ndarray:
        """Make a tensor from the same, with the dtype after the hooks."""
        if not 7 <= len(args) <= 8:
            raise CheckpointError(f"_rebuild_tensor_v3 is called with {len(args)} arguments")
        if type(args[6]) is not Label:
            raise CheckpointError(f"a tensor's dtype is {short(args[6])}")
        return self._tensor(args[:6], args[7:], args[6].removeprefix("torch."))

    def _tensor(self, args: Arguments, metadata: Arguments, dtype: str | None) -> np.ndarray:
        storage, offset, size, stride, requires_grad, hooks = args
        if type(storage) is not _Storage or (storage.dtype is None) == (dtype is None):
            raise CheckpointError(f"a tensor has {short(storage)} and {dtype or 'no'} dtype")
        _check_plain_tensor(requires_grad, hooks)
        if metadata and (type(metadata[0]) is not dict or metadata[0]):
            raise CheckpointError(
                "it contains a tensor that is conjugated or negated when it is read: save "
                "tensor.resolve_conj().resolve_neg()"
            )
        (offset,) = _naturals("offset", (offset,))
        size = _naturals("size", size)
        stride = _naturals("stride", stride)
        if len(size) != len(stride):
            raise CheckpointError(f"a tensor has {len(size)} sizes and {len(stride)} strides")

        return self._view(_Storage(storage.key, dtype or storage.dtype), offset, size, stride)

    def _view(
        self,
        storage: "_Storage",
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> np.ndarray:
        """Return a view of a storage, if it is inside the storage."""
        elements = self._elements_of(storage)
        number = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if number and last >= elements.size:
            raise CheckpointError(
                f"a tensor of size {size!s:.80}, stride {stride!s:.80} and offset {offset} exceeds "
                f"its storage 'data/{storage.key}' of {elements.size} elements"
            )
        itemsize = elements.itemsize
        self._copied_out += number * itemsize
        if self._copied_out > 8 * len(self._file) + _EXPANDED:
            raise CheckpointError(
                f"its tensors view the same {len(self._file)} bytes many times: copies of them "
                f"would take {short(self._copied_out)} bytes or more"
            )
        # The stride of an axis of one element may be any number.
        steps = [itemsize * (step if n > 1 else 1) for n, step in zip(size, stride, strict=True)]
        try:
            if not number:
                return np.empty(size, elements.dtype)
            tensor: np.ndarray = np.ndarray(
                size, elements.dtype, elements, offset * itemsize, steps
            )
            return tensor
        except ValueError as error:  # such as (2**62, 2**62, 0)
            raise CheckpointError(f"a tensor has the size {size!s:.80}: {error}") from None


class _StorageType(NamedTuple):
    dtype: str | None  # of its elements; None if the tensor has it

    @property
    def itemsize(self) -> int:
        return _DTYPES[self.dtype].itemsize if self.dtype else 1


class _Storage(NamedTuple):
    key: str
    dtype: str | None


def check_crc(name: str, content: bytes | memoryview, record: Record) -> None:
    """Raise CheckpointError if a record has a checksum and it is wrong."""
    if record.crc and zlib.crc32(content) != record.crc:  # 0: torch computed none
        raise CheckpointError(f"the record {name!r} is damaged: its checksum is wrong")


def _parameter(args: Arguments) -> np.ndarray:
    if len(args) != 3 or type(args[0]) is not np.ndarray:
        raise CheckpointError("_rebuild_parameter is called with other than a tensor")
    _check_plain_tensor(*args[1:])
    return args[0]


def _check_plain_tensor(requires_grad: Any, hooks: Any) -> None:
    if type(requires_grad) is not bool or type(hooks) is not dict or hooks:
        raise CheckpointError(
            f"a tensor has requires_grad {short(requires_grad)} and hooks {short(hooks)}, "
            "expected a boolean and none"
        )


def _size(args: Arguments) -> tuple[int, ...]:
    if len(args) != 1:
        raise CheckpointError(f"torch.Size is called with {len(args)} arguments")
    return _naturals("size", args[0])


def _naturals(what: str, values: Any) -> tuple[int, ...]:
    """Return a tuple of at most 64 integers from 0 to 2**63 - 1."""
    if type(values) is not tuple or len(values) > _MOST_DIMENSIONS:
        number = f" of {len(values)}" if type(values) is tuple else ""
        raise CheckpointError(
            f"a tensor's {what} is a {type(values).__name__}{number}, expected a tuple of at most "
            f"{_MOST_DIMENSIONS} integers"
        )
    for value in values:
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise CheckpointError(f"a tensor's {what} contains {short(value)}")
    return tuple(values)
