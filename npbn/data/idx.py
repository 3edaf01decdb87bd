"""The IDX file format, in which MNIST and similar data sets are published.

An IDX file is two zero bytes, one byte for the dtype, one for the number of dimensions, each
dimension as a big-endian uint32, then the values in C order, big-endian. Source: Y. LeCun,
C. Cortes and C. Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import os
import zlib
from io import BufferedIOBase

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import DataError
from npbn.io import atomic

_DTYPES: dict[int, np.dtype] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an array from an IDX file, plain or compressed with gzip.

    Compression is recognised by the first bytes of the file, not by its name. Memory is allocated
    for the data in the file, not for the size in its header.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    ndarray
        With the file's shape, and of dtype uint8, int8, int16, int32, float32 or float64; in native
        byte order, C-contiguous and writable.

    Raises
    ------
    DataError
        If the file cannot be opened or decompressed, is no IDX file, or has less or more data than
        its header says.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/labels.idx", np.array([5, 0, 4], np.uint8))
    ...     read_idx(f"{folder}/labels.idx")
    array([5, 0, 4], dtype=uint8)
    """
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] != _GZIP_MAGIC:
                return _read_array(file, path)
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                return _read_array(unpacked, path)
    except (OSError, EOFError, zlib.error) as error:
        raise _cannot("read", path, error) from error


def write_idx(path: str | os.PathLike[str], array: ArrayLike) -> None:
    """Write an array to an IDX file, compressed with gzip if the name ends in ``.gz``.

    The compressed file has neither time nor name in it: equal arrays give equal files.

    Parameters
    ----------
    path : str or path-like
        The file. An existing one is replaced completely or, on an error, not at all.
    array : array_like
        Any shape, memory layout and byte order; dtype uint8, int8, int16, int32, float32 or
        float64.

    Raises
    ------
    DataError
        If IDX has no code for the dtype or no space for the shape, or if the file cannot be
        written. An existing file has not been changed then.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/eye.idx.gz", np.eye(2, dtype=np.float32))
    ...     read_idx(f"{folder}/eye.idx.gz")
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder(">")
    if dtype not in _CODES:
        supported = ", ".join(known.name for known in _CODES)
        raise DataError(f"cannot write {path}: IDX holds {supported}, not {array.dtype}")
    if any(size >= 1 << 32 for size in array.shape):
        raise DataError(f"cannot write {path}: a dimension of {array.shape} exceeds 32 bits")

    header = bytes([0, 0, _CODES[dtype], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = header + array.astype(dtype, copy=False).tobytes()
    if os.fsdecode(path).endswith(".gz"):
        data = gzip.compress(data, mtime=0)

    def write(name: str) -> None:
        with open(name, "wb") as file:
            file.write(data)

    try:
        atomic.replace(os.fspath(path), write)
    except OSError as error:
        raise _cannot("write", path, error) from error


def _read_array(stream: BufferedIOBase, path: str | os.PathLike[str]) -> np.ndarray:
    magic = _read_up_to(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file: it begins with {_hex(magic)}, not 00 00")
    code, ndim = magic[2:]
    if code not in _DTYPES:
        known = _hex(bytes(_DTYPES))
        raise DataError(f"{path}: {code:02x} is no dtype code of IDX, expected one of {known}")
    sizes = _read_up_to(stream, 4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(
            f"{path}: the header says {ndim} dimensions in {4 * ndim} bytes, "
            f"the file ends after {len(sizes)} of them"
        )

    shape = tuple(np.frombuffer(sizes, ">u4").tolist()) if ndim else ()
    dtype = _DTYPES[code]
    expected = math.prod(shape) * dtype.itemsize
    data = _read_up_to(stream, expected + 1)  # one more, to see whether the file ends there
    if len(data) != expected:
        held = f"only {len(data)}" if len(data) < expected else "more"
        raise DataError(
            f"{path}: the header says {' x '.join(map(str, shape)) or 'one'} {dtype.name} "
            f"values, {expected} bytes, the file holds {held}"
        )
    try:
        array = np.ndarray(shape, dtype, buffer=data)
    except ValueError as error:  # more than 64 dimensions, or (2**32 - 1, 2**32 - 1, 0)
        raise DataError(f"{path}: no array can have the shape {shape}: {error}") from error
    native: np.ndarray = array.astype(dtype.newbyteorder("="), copy=False)
    return native


def _read_up_to(stream: BufferedIOBase, size: int) -> bytearray:
    """Read `size` bytes or to the end, in chunks: ``read(size)`` would allocate `size` at once."""
    data = bytearray()
    while len(data) < size and (chunk := stream.read(min(size - len(data), _CHUNK))):
        data += chunk
    return data


def _hex(data: bytes | bytearray) -> str:
    return data.hex(" ") or "nothing"


def _cannot(verb: str, path: str | os.PathLike[str], error: Exception) -> DataError:
    return DataError(f"cannot {verb} {path}: {getattr(error, 'strerror', None) or error}")
