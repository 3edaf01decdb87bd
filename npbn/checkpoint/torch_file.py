"""Reading the files of ``torch.save`` without torch.

Such a file (since torch 1.6) is a zip archive with uncompressed records in one folder:
``data.pkl`` is a pickle of the object; ``data/0``, ``data/1``, ... are the bytes of the storages
that its tensors view; ``byteorder`` is ``little`` or ``big``. Source of the format: the notes on
serialization in torch's documentation, and files that it wrote. ``torch_zip`` reads the container,
``torch_pickle`` the pickle, ``torch_tensors`` the tensors and ``torch_plain`` other data;
``torch_legacy`` reads the format before 1.6.
"""

import mmap
import os
import stat
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from npbn.checkpoint.torch_legacy import is_legacy, read_legacy, without_view
from npbn.checkpoint.torch_names import Label, short
from npbn.checkpoint.torch_pickle import load_pickle
from npbn.checkpoint.torch_plain import PlainData
from npbn.checkpoint.torch_tensors import Tensors, check_crc
from npbn.checkpoint.torch_zip import Record, read_records
from npbn.errors import CheckpointError

_MAPPED_FROM = 1 << 22  # bytes; smaller files are read, so they may be overwritten later
_LONGEST_PICKLE = 1 << 23  # bytes; each can make an empty dictionary of 72 bytes
_MOST_VALUES = 1 << 24
_DEEPEST = 100
_LEAVES = {str, Label, bytes, int, float, bool, type(None), np.ndarray}
_ADVICE = {
    "torch.float8": "NumPy has no such numbers: save tensor.float()",
    "torch.complex32": "NumPy has no such numbers: save tensor.to(torch.complex64)",
    "torch._utils._rebuild_qtensor": "save the quantised tensor's dequantize()",
    "torch._utils._rebuild_sparse": "save the sparse tensor's to_dense()",
    "torch._utils._rebuild_nested": "save the nested tensor's unbind()",
    "torch._utils._rebuild_meta": "a tensor on the meta device has no values",
    "torch._utils._rebuild_parameter_with_state": "save parameter.detach()",
    "torch._tensor._rebuild_from_type": "save the tensor without its attributes: tensor.clone()",
    "numpy": "of NumPy, numbers and arrays of numbers are read: torch.from_numpy(array)",
}


def load_torch(path: str | os.PathLike[str]) -> Any:
    """Read what ``torch.save(net.state_dict(), path)`` wrote; the file need not be trusted.

    Nothing in the file is executed and nothing that it names is imported. A file that uses other
    globals than the few that a state needs is refused, and the error names the global.

    A file of 4 MiB or more is mapped into memory, not read. Its arrays are views of the mapping,
    which exists as long as any of them. Writing to them does not change the file (copy on write).
    While they exist, the file must not be changed or shortened in place: on most systems the
    process ends when they are read after that. Replacing it (:func:`os.replace`) is safe. Checksums
    of mapped tensors are not compared, as that would read them all; those of the pickle and of
    smaller files are. In addition to the bytes of the tensors, Python objects take memory in
    proportion to the pickle, typically ten times its size and at most 72 times. A pickle over
    8 MiB is refused, which is enough for about 75,000 tensors.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    object
        The object that was saved: for a ``state_dict``, a dictionary of arrays. Tensors and
        parameters become writable arrays with the same shapes and strides, which share memory
        where the tensors did: float16, float32, float64, bfloat16 (widened to float32, a copy),
        complex64, complex128, bool and all integers, in native byte order. Dictionaries, lists,
        tuples, sets, strings, bytes, numbers, booleans, None and NumPy's numbers and arrays are
        kept. ``torch.Size`` becomes a tuple. An ``OrderedDict`` (without its ``_metadata``), a
        ``defaultdict``, a ``Counter`` and a namespace become dictionaries. A dtype and a device of
        torch become strings.

    Raises
    ------
    CheckpointError
        If the file cannot be read; is empty, cut short, damaged or compressed; is in another
        format, such as TorchScript; contains anything else (a module, an array of objects, a
        float8, quantised, sparse, nested or meta tensor, a lazily conjugated one, one with
        attributes of its own); if a tensor exceeds its storage; or if copies of all tensors would
        take more than eight times the size of the file and 256 MiB (an expanded tensor is a view
        of a few bytes, until it is copied).
    """
    path = os.fspath(path)
    try:
        return _load(_contents(path))
    except CheckpointError as error:
        reason: object = error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
    raise CheckpointError(f"cannot load {os.fsdecode(path)!r}: {reason}")


def _contents(path: str | os.PathLike[str]) -> bytearray | mmap.mmap:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
        raise CheckpointError("it is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size >= _MAPPED_FROM:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        content = bytearray(size)
        del content[file.readinto(content) :]
    if not content:
        raise CheckpointError("the file is empty")
    return content


def _load(file: bytearray | mmap.mmap) -> Any:
    legacy = is_legacy(bytes(file[:64]))
    if legacy:
        pickle, records = read_legacy(file, _LONGEST_PICKLE)
        tensors = Tensors(file, records, "little", checked=False)
    else:
        records = _records_of_torch(file)
        size = records["data.pkl"].size
        if size > _LONGEST_PICKLE:
            raise CheckpointError(
                f"its pickle has {size} bytes, expected at most {_LONGEST_PICKLE}"
            )
        tensors = Tensors(file, records, _byte_order(file, records), isinstance(file, bytearray))
        pickle = _read(file, records, "data.pkl")
    plain = PlainData(len(pickle))

    def storage(persistent_id: Any) -> Any:
        return tensors.storage(without_view(persistent_id) if legacy else persistent_id)

    names = {**plain.names(), **tensors.names()}
    result = load_pickle(pickle, names, storage, _explain, plain.builders)
    _check_tree(result)
    return result


def _records_of_torch(file: bytearray | mmap.mmap) -> dict[str, Record]:
    """Return the records by their names in the one folder that torch makes."""
    start = bytes(file[:64])
    if not start.startswith((b"PK\3\4", b"PK\5\6")):
        raise CheckpointError(f"expected a zip file, as torch.save writes, got {start[:8]!r}...")
    everything = read_records(file)
    folders = {name.partition("/")[0] for name in everything}
    folder = folders.pop() if len(folders) == 1 else ""
    records = {name[len(folder) + 1 :]: record for name, record in everything.items()}
    if folder and ("constants.pkl" in records or any(n.startswith("code/") for n in records)):
        raise CheckpointError(
            "it is a TorchScript archive, a program with its data; save its state with torch: "
            "torch.save(torch.jit.load(path).state_dict(), path + '.pt')"
        )
    if not folder or "data.pkl" not in records:
        first = ", ".join(short(name) for name in sorted(everything)[:3])
        raise CheckpointError(
            f"it is a zip file, but not torch.save's: no folder/data.pkl among its "
            f"{len(everything)} records ({first})"
        )
    for name, record in records.items():
        if record.compressed:
            raise CheckpointError(
                f"the record {short(name)} is compressed, but torch.save does not compress"
            )
    return records


def _read(file: bytearray | mmap.mmap, records: dict[str, Record], name: str) -> bytes:
    record = records[name]
    content = bytes(file[record.offset : record.offset + record.size])
    check_crc(name, content, record)
    return content


def _byte_order(file: bytearray | mmap.mmap, records: dict[str, Record]) -> str:
    if "byteorder" not in records:
        return "little"  # torch before 2.1
    if records["byteorder"].size <= len("little"):
        order = _read(file, records, "byteorder")
        if order in (b"little", b"big"):
            return order.decode()
    raise CheckpointError("its record 'byteorder' is neither 'little' nor 'big'")


def _explain(module: str, name: str) -> str:
    """Return advice about a global that is refused, or nothing."""
    for start, advice in _ADVICE.items():
        if f"{module}.{name}".startswith(start):
            return f"; {advice}"
    top = module.partition(".")[0]
    if name[:1].isupper() and top not in {*sys.stdlib_module_names, "__builtin__"}:
        return "; a whole module? Save its state beside it: torch.save(net.state_dict(), new_path)"
    return ""


def _check_tree(root: Any) -> None:
    """Raise CheckpointError on anything but plain data, and on trees with too many values.

    A shared value counts wherever it occurs. Otherwise a short pickle, of a list that contains a
    list twice, which contains a list twice, and so on, would take forever to process.
    """
    counts: dict[int, int] = {}  # of values in each finished container
    unfinished = {id(root)}
    path = [(root, iter(_parts(root)), 1)]
    while path:
        container, parts, count = path.pop()
        for part in parts:
            if type(part) in _LEAVES or isinstance(part, np.generic):
                count += 1
            elif id(part) in counts:
                count += counts[id(part)]
            elif id(part) in unfinished:
                raise CheckpointError("it contains a list or dictionary that contains itself")
            else:
                unfinished.add(id(part))
                path += [(container, parts, count), (part, iter(_parts(part)), 1)]
                break
        else:
            counts[id(container)] = count
            unfinished.discard(id(container))
            if path:
                path[-1] = (*path[-1][:2], path[-1][2] + count)
        if count > _MOST_VALUES:
            raise CheckpointError(f"its lists and dictionaries contain over {_MOST_VALUES} values")
        if len(path) > _DEEPEST:
            raise CheckpointError(f"its lists and dictionaries are nested over {_DEEPEST} deep")


def _parts(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return list(value.values())  # its keys were checked when they were set
    if isinstance(value, list | tuple | set) and type(value) in (list, tuple, set):
        return value
    if type(value) in _LEAVES or isinstance(value, np.generic):
        return ()
    raise CheckpointError(f"it contains {short(value)} as a value, expected tensors and plain data")
