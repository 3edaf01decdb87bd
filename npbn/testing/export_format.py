"""The files of an export: ``index.json``, ``README.txt`` and one ``.npz`` for each case.

The same cases give the same files, byte for byte, with one version of NumPy. They are read
without trusting them: a header is compared with what the index calls for, and no memory is
taken that the file does not fill.
"""

import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from npbn.errors import DataError
from npbn.testing.names import PASSES, RUNNING, VECTORS

FORMAT, VERSION = "npbn BatchNorm cases", 1
INDEX, README = "index.json", "README.txt"
MEASURES = ("correct", "contract")
RESULTS = (*PASSES, *(f"{name}_after" for name in RUNNING))

README_TEXT = """\
BatchNorm cases: inputs, exact results and tolerances
=====================================================

index.json lists the cases. Each is one step of one BatchNorm, in a file of its own; from the
index come the scalars, from the file the arrays. C is shape[1], n the product of the rest.

index.json
  format, format_version, npbn_version
  cases, a list of objects:
    file, sha256           the case's file, and the SHA-256 of its bytes in hexadecimal
    description            for people
    shape, dtype           of x: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W);
                           float16, float32 or float64
    parameter_dtype        of weight, bias and the running statistics: float32 with float16
    training               true: the batch's statistics normalise, and are averaged in
    tracked                whether there are running statistics; where there are none,
                           the batch normalises in evaluation too
    weight, bias           whether there is a weight (otherwise 1), a bias (otherwise 0)
    eps                    added to the variance, under the root
    momentum               weight of the new value in the running statistics; null is the
                           plain average: 1 / num_batches_tracked_after
    num_batches_tracked_before, num_batches_tracked_after
    measures               which tolerances are meant to be met, see below

A case's file is a ZIP archive without compression (each array's bytes lie in it as they are).
Its members are .npy files, version 1.0: the bytes 93 "NUMPY" 01 00, the header's length as a
little-endian 16-bit number, the header, then the values, little-endian and in C order.
  x.npy, grad_output.npy            shape, dtype        the input and the upstream gradient
  weight.npy, bias.npy              (C,), parameter_dtype       where there are such
  running_mean.npy, running_var.npy (C,), parameter_dtype       before the step; if tracked
Expected, in float64: exact, or so nearly that it makes no difference; infinite where the
result's dtype (that of x, or parameter_dtype for what has C values) cannot hold it:
  y.npy, grad_input.npy             shape
  grad_weight.npy, grad_bias.npy    (C,)                where there is a weight, a bias
  running_mean_after.npy, running_var_after.npy  (C,)   if tracked
Largest allowed error of each of these, of the same shape and float64:
  tolerance_correct_y.npy, ... and tolerance_contract_y.npy, ...

A result passes where it equals the expected one (infinities too), or where
|result - expected|, taken in float64, is at most the tolerance; NaN never passes.
"contract" is npbn's accuracy contract, whatever the input's condition; "correct" is what
straightforward arithmetic in the input's dtype may lose. Where straightforward arithmetic
overflows, "correct" is missing from the case's measures and means nothing there.

With mean and var (biased) over a channel's n values, or the running ones:
  x_hat = (x - mean) / sqrt(var + eps)
  y     = weight * x_hat + bias
  running_mean_after = (1 - momentum) * running_mean + momentum * mean
  running_var_after  = (1 - momentum) * running_var  + momentum * var * n / (n - 1)
  grad_bias   = sum(grad_output)
  grad_weight = sum(grad_output * x_hat)
  grad_input  = weight / sqrt(var + eps) * (grad_output - grad_bias / n - x_hat * grad_weight / n)
where the last two terms fall away if the running statistics normalise. An empty batch (n = 0)
in training leaves the running statistics alone and counts as a batch.
"""


@dataclass(frozen=True)
class Entry:
    """The entry of a case in the index; :data:`README_TEXT` describes the fields."""

    file: str
    sha256: str
    description: str
    shape: list[int]
    dtype: str
    parameter_dtype: str
    training: bool
    tracked: bool
    weight: bool
    bias: bool
    eps: float
    momentum: float | None
    num_batches_tracked_before: int
    num_batches_tracked_after: int
    measures: list[str]

    def arrays(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Return dtype and shape of every array of the case, by name, in the file's order."""
        shape, channels = tuple(self.shape), (self.shape[1],)
        present = {"weight": self.weight, "bias": self.bias}
        given: dict[str, tuple[str, tuple[int, ...]]] = {
            "x": (self.dtype, shape),
            "grad_output": (self.dtype, shape),
        }
        for name in VECTORS:
            if present.get(name, self.tracked):
                given[name] = (self.parameter_dtype, channels)
        results = {}
        for name in RESULTS:
            if present.get(name.removeprefix("grad_"), self.tracked or "running" not in name):
                results[name] = ("float64", shape if name in ("y", "grad_input") else channels)
        given.update(results)
        for measure in MEASURES:
            given.update({f"tolerance_{measure}_{name}": what for name, what in results.items()})
        return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in given.items()}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_DTYPES = {"float16": "float32", "float32": "float32", "float64": "float64"}
_CHECKS: dict[str, Callable[[Any], bool]] = {
    # a plain name: nothing outside of the folder is opened
    "file": lambda value: type(value) is str and re.fullmatch(r"\w+\.npz", value) is not None,
    "sha256": lambda value: type(value) is str,
    "description": lambda value: type(value) is str,
    "shape": lambda value: (
        type(value) is list and 2 <= len(value) <= 5 and all(map(_is_count, value)) and value[1] > 0
    ),
    "dtype": lambda value: type(value) is str and value in _DTYPES,
    "parameter_dtype": lambda value: type(value) is str and value in _DTYPES.values(),
    **dict.fromkeys(("training", "tracked", "weight", "bias"), lambda value: type(value) is bool),
    "eps": lambda value: _is_number(value) and value >= 0,
    "momentum": lambda value: value is None or _is_number(value),
    "num_batches_tracked_before": _is_count,
    "num_batches_tracked_after": _is_count,
    "measures": lambda value: (
        type(value) is list and value != [] and all(name in MEASURES for name in value)
    ),
}


def write_index(folder: Path, version: str, entries: list[Entry]) -> None:
    """Write the index atomically."""
    head = {"format": FORMAT, "format_version": VERSION, "npbn_version": version}
    index = {**head, "cases": [asdict(entry) for entry in entries]}
    part = folder / (INDEX + ".part")
    part.write_bytes((json.dumps(index, indent=1) + "\n").encode())
    os.replace(part, folder / INDEX)


def read_index(folder: Path) -> list[Entry]:
    """Read the index and check each of its fields; raise DataError on any error."""
    path = folder / INDEX
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is nothing of that name"
        raise DataError(f"{folder}: expected a folder of exported cases, {what}")
    if not path.exists():
        raise DataError(f"{path} is missing: no export, or one that was cut short (it comes last)")
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if type(index) is not dict or index.get("format") != FORMAT:
        raise DataError(f"{path}: expected the format {FORMAT!r}")
    if index.get("format_version") != VERSION:
        found = index.get("format_version")
        raise DataError(f"{path}: expected format version {VERSION}, got {found!r}")
    cases = index.get("cases")
    if type(cases) is not list or not cases:
        raise DataError(f"{path}: expected a list of cases")
    return [_entry(f"{path}: case {number}", case) for number, case in enumerate(cases)]


def _entry(where: str, case: Any) -> Entry:
    if type(case) is not dict:
        raise DataError(f"{where}: expected an object")
    for field in fields(Entry):
        if field.name not in case:
            raise DataError(f"{where}: {field.name} is missing")
        if not _CHECKS[field.name](case[field.name]):
            raise DataError(f"{where}: {field.name} cannot be {str(case[field.name])[:80]!r}")
    return Entry(**{field.name: case[field.name] for field in fields(Entry)})


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write a case's file and return its SHA-256."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            np.lib.format.write_array(stream, values, version=(1, 0))
            # a ZipInfo is dated 1980, whenever it is written
            archive.writestr(zipfile.ZipInfo(name + ".npy"), stream.getvalue())
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_arrays(path: Path, entry: Entry) -> dict[str, np.ndarray]:
    """Read a case's file, whose arrays have to be those that the index lists."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DataError(
            f"{path}: its SHA-256 is not the one in {INDEX}: damaged, truncated, or of another "
            "export"
        )
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            for name, (dtype, shape) in entry.arrays().items():
                member = members.get(name + ".npy")
                if member is None:
                    raise DataError(f"{path}: the array {name} is missing")
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                    raise DataError(f"{path}: {name} is compressed or larger than the file")
                arrays[name] = _array(f"{path}: {name}", archive.read(member), dtype, shape)
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as a ZIP archive of arrays: {error}") from error
    return arrays


def _array(where: str, data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Read a member; its header is checked before memory is allocated."""
    stream, wanted = io.BytesIO(data), dtype.newbyteorder("<")
    size = math.prod(shape) * dtype.itemsize
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0(stream)
    except Exception:  # NumPy's reader may raise anything on a damaged header
        version, header = (0, 0), None
    start = stream.tell()
    if version != (1, 0) or header != (shape, False, wanted) or len(data) != start + size:
        raise DataError(f"{where} is not a {dtype.name} array of shape {shape} in C order")
    return np.frombuffer(data, wanted, offset=start).reshape(shape).astype(dtype)
