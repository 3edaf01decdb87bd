"""``.safetensors``: written with the package of that name, mapped into memory without it.

The file has the length of the header in eight bytes, the header in JSON, then the bytes of the
arrays (huggingface.co/docs/safetensors). The package's NumPy reader copies every array and does not
support bfloat16.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from npbn.checkpoint.tree import Arrays
from npbn.errors import CheckpointError
from npbn.io.quoting import quoted
from npbn.version import __version__

_DTYPES = {
    "BOOL": "?",
    **{f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "BF16": "<u2",
    "C64": "<c8",
}
_RANK = 64  # the maximum of a NumPy array
_MINE = ("npbn", "npbn_version")  # two, to notice damage to the name of the first


def write(path: str, arrays: Arrays, description: str) -> None:
    """Write the file.

    Raises
    ------
    CheckpointError
        If the package is not installed, or an array is complex128.
    OSError
        If the file cannot be written.
    """
    try:
        from safetensors.numpy import save
    except ModuleNotFoundError as error:
        raise CheckpointError(
            "saving to .safetensors needs a package: pip install 'npbn[checkpoints]'"
        ) from error
    # The package ignores strides. Its other function, save_file, would write to a temporary file of
    # its own, with other permissions.
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    if any(array.dtype == np.complex128 for array in arrays.values()):
        raise CheckpointError("the format .safetensors has no complex128; save to .npz")
    data = save(arrays, dict(zip(_MINE, (description, __version__), strict=True)))
    with open(path, "wb") as file:
        file.write(data)


def read(file: BinaryIO) -> tuple[Arrays, str | None, dict[str, Any]]:
    """Return arrays, npbn's description if there is one, and the metadata of other programs.

    Raises
    ------
    Exception
        On a damaged header, of many types.
    """
    size = os.fstat(file.fileno()).st_size
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > size or size < 8:
        raise ValueError(f"a header of {start - 8} bytes is promised, in a file of {size}")
    header = json.loads(file.read(start - 8).decode(), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise ValueError(f"expected a header that is an object, got {quoted(header)}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"__metadata__: expected an object of strings, got {quoted(metadata)}")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(
                f"__metadata__: expected strings, got {quoted(value)} for {quoted(key)}"
            )
    _check_layout(header, size - start)
    data = _mapped(file, size)
    arrays = {name: _array(name, entry, data, start) for name, entry in header.items()}
    if any(key in metadata for key in _MINE):
        return arrays, metadata.get(_MINE[0], ""), {}
    return arrays, None, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in the header")
    return found


def _check_layout(header: Mapping[str, Any], size: int) -> None:
    """Raise ValueError unless every entry is valid, and together they cover the data once."""
    for key, entry in header.items():
        name = quoted(key)
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise ValueError(f"{name}: expected dtype, shape and data_offsets")
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in _DTYPES:
            raise ValueError(f"{name}: expected {', '.join(_DTYPES)}, got dtype {quoted(dtype)}")
        if len(shape) > _RANK:
            raise ValueError(f"{name}: expected {_RANK} dimensions or fewer, got {len(shape)}")
        if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
            raise ValueError(f"{name}: expected a shape and offsets, got {quoted(entry)}")
        expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if end - begin != expected:
            raise ValueError(f"{name}: {shape} of {dtype} take {expected} bytes, got {end - begin}")
    reached = 0
    for begin, end in sorted(entry["data_offsets"] for entry in header.values()):
        if begin != reached:
            raise ValueError(f"the arrays overlap or leave a gap at byte {begin} of the data")
        reached = end
    if reached != size:
        raise ValueError(f"the header promises {reached} bytes of data, the file holds {size}")


def _mapped(file: BinaryIO, size: int) -> Any:
    if os.name == "nt":  # Windows does not replace a file while it is mapped
        file.seek(0)
        return bytearray(file.read())
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)


def _array(name: str, entry: Mapping[str, Any], data: Any, start: int) -> np.ndarray:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"]
    array: np.ndarray = np.frombuffer(
        data, dtype, math.prod(shape), start + entry["data_offsets"][0]
    )
    if entry["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype("<u4") << np.uint32(16)).view("<f4")
    if not array.flags.aligned:
        array = array.copy()
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{quoted(name)}: expected bytes of 0 and 1 for bool")
    native: np.ndarray = array.reshape(shape).astype(array.dtype.newbyteorder("="), copy=False)
    return native
