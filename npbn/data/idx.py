"""The IDX file format, in which MNIST and its relatives are published.

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

from npbn.errors import DataError

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


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read an array from an IDX file, plain or compressed with gzip.

    Compression is recognised by the file's first bytes, whatever its name. Memory is taken for
    the data that is there, never for what a header merely promises.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    ndarray
        Of the file's shape and of dtype uint8, int8, int16, int32, float32 or float64; in native
        byte order, C-contiguous and writable.

    Raises
    ------
    DataError
        If the file cannot be opened or decompressed, is no IDX file, or holds less or more data
        than its header promises.
    """
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] != _GZIP_MAGIC:
                return _read_array(file, path)
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                return _read_array(unpacked, path)
    except (OSError, EOFError, zlib.error) as error:
        raise _cannot("read", path, error) from error


def write_idx(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array to an IDX file, compressed with gzip if the name ends in ``.gz``.

    The compressed file records neither time nor name, so that equal arrays give equal files.

    Parameters
    ----------
    path : str or path-like
        The file, which is replaced if it exists; as a whole, or not at all.
    array : array_like
        Any shape, memory layout and byte order; dtype uint8, int8, int16, int32, float32 or
        float64.

    Raises
    ------
    DataError
        If IDX has no code for the dtype or no room for the shape (nothing is written then), or
        if the file cannot be written. What was there stands then.

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
    from npbn.checkpoint import atomic

    def write(name: str) -> None:
        with open(name, "wb") as file:
            file.write(data)

    try:
        atomic.replace(os.fspath(path), write)
    except OSError as error:
        raise _cannot("write", path, error) from error


def _read_array(stream: BufferedIOBase, path: str | os.PathLike) -> np.ndarray:
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
            f"{path}: the header promises {ndim} dimensions in {4 * ndim} bytes, "
            f"the file ends after {len(sizes)} of them"
        )

    shape = tuple(np.frombuffer(sizes, ">u4").tolist()) if ndim else ()
    dtype = _DTYPES[code]
    promised = math.prod(shape) * dtype.itemsize
    data = _read_up_to(stream, promised + 1)  # the one byte more shows whether the file ends there
    if len(data) != promised:
        held = f"only {len(data)}" if len(data) < promised else "more"
        raise DataError(
            f"{path}: the header promises {' x '.join(map(str, shape)) or 'one'} {dtype.name} "
            f"values, {promised} bytes, the file holds {held}"
        )
    try:
        array = np.ndarray(shape, dtype, buffer=data)
    except ValueError as error:  # more than 64 dimensions, or (2**32 - 1, 2**32 - 1, 0)
        raise DataError(f"{path}: no array can have the shape {shape}: {error}") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(stream: BufferedIOBase, size: int) -> bytearray:
    """Read `size` bytes or to the end, in chunks: ``read(size)`` would allocate `size` at once."""
    data = bytearray()
    while len(data) < size and (chunk := stream.read(min(size - len(data), _CHUNK))):
        data += chunk
    return data


def _hex(data: bytes | bytearray) -> str:
    return data.hex(" ") or "nothing"


def _cannot(verb: str, path: str | os.PathLike, error: Exception) -> DataError:
    return DataError(f"cannot {verb} {path}: {getattr(error, 'strerror', None) or error}")
