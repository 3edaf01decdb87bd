"""``.npz``: a zip archive of ``.npy`` files, as ``np.savez`` writes it and ``np.load`` reads it.

The description is the archive's comment, so that ``np.load`` finds only the arrays. If it is too
long for a comment, it is a file in the archive, ``npbn.json``.
"""

import os
import zipfile
from io import BufferedReader
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from npbn.checkpoint.tree import DTYPES, Arrays
from npbn.io.quoting import quoted

DESCRIPTION = "npbn.json"
_COMMENT = 65535  # bytes, the maximum of a zip archive's comment
# The highest ratio of each compression (zlib.net/zlib_tech.html); NumPy writes no others.
_RATIOS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
_END = 22  # bytes of the last record of a zip archive, without the comment
_CHUNK = 1 << 18


def write(path: str, arrays: Arrays, description: str) -> None:
    """Write the archive, uncompressed; equal states give equal bytes."""
    text = description.encode()
    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # A ZipInfo, unlike a name, has a constant time.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
        if len(text) <= _COMMENT:
            archive.comment = text
        else:
            archive.writestr(zipfile.ZipInfo(DESCRIPTION), text)


def read(file: BufferedReader) -> tuple[Arrays, str | None, dict[str, Any]]:
    """Return arrays, the description if there is one, and empty metadata, as ``.npz`` has none.

    Raises
    ------
    Exception
        Whatever zipfile and NumPy raise on a damaged file.
    """
    size = os.fstat(file.fileno()).st_size
    if not file.peek(2).startswith(b"PK"):
        raise ValueError(f"expected it to begin with b'PK', got {file.peek(8)[:8]!r}")
    with zipfile.ZipFile(file) as archive:
        description = archive.comment.decode() or None
        _check_end(file, len(archive.comment))
        if sum(info.compress_size for info in archive.infolist()) > size:
            raise ValueError(f"the archive promises more than its {size} bytes")
        arrays: Arrays = {}
        for info in archive.infolist():
            if info.file_size > info.compress_size * _RATIOS.get(info.compress_type, 0):
                raise ValueError(
                    f"{info.compress_size} bytes of {quoted(info.filename)} cannot unpack to "
                    f"{info.file_size}"
                )
            name = info.filename.removesuffix(".npy")  # os.path.splitext does not split "a/.npy"
            if info.filename == DESCRIPTION:
                if info.compress_type != zipfile.ZIP_STORED:  # else its size is not bounded
                    raise ValueError(f"{DESCRIPTION} is compressed")
                description = archive.read(info).decode()
            elif name == info.filename or name in arrays:
                raise ValueError(f"expected arrays, each name once, got {quoted(info.filename)}")
            else:
                arrays[name] = _array(archive, info)
    return arrays, description, {}


def _check_end(file: BufferedReader, comment: int) -> None:
    """Raise ValueError if the comment is cut off, which zipfile accepts."""
    file.seek(-_END - comment, os.SEEK_END)
    end = file.read(_END)
    if end[:4] != b"PK\5\6" or int.from_bytes(end[20:], "little") != comment:
        raise ValueError("the end of the archive is damaged or cut off")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        return read_npy(member, info.filename, info.file_size)


def read_npy(file: IO[bytes], name: str, size: int) -> np.ndarray:
    """Return the array of an ``.npy`` file of `size` bytes, in native byte order.

    Raises
    ------
    Exception
        Whatever NumPy raises on a damaged header. ValueError, with the name, if the data do not
        fit the header, and on objects, which are never unpickled.
    """
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{quoted(name)}: expected version 1.0 or 2.0 of .npy, got {version}")
    shape, fortran, dtype = readers[version](file)
    native = dtype.newbyteorder("=")
    if native not in DTYPES:  # such as Python objects, which only pickle could read
        raise ValueError(
            f"{quoted(name)}: expected an array of floats, complex numbers, integers or bool, got "
            f"dtype {quoted(dtype)}; objects are never unpickled"
        )
    promised = int(np.prod(shape, dtype=object)) * dtype.itemsize  # exact, not modulo 2**64
    if promised != size - file.tell():
        raise ValueError(
            f"{quoted(name)}: {shape} of {dtype} take {promised} bytes, got {size - file.tell()}"
        )
    data = np.empty(promised, np.uint8)
    start = 0
    while chunk := file.read(_CHUNK):  # at the end zipfile compares the checksum
        data[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
        start += len(chunk)
    if start != promised:
        raise ValueError(f"{quoted(name)}: expected {promised} bytes, got {start}")
    if dtype.kind == "b" and (data > 1).any():  # other booleans are undefined in C
        raise ValueError(f"{quoted(name)}: expected bytes of 0 and 1 for bool")
    array = data.view(dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(native, copy=False)
