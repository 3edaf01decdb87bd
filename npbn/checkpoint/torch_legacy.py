"""The format of ``torch.save`` before 1.6: pickles one after another, then the storages.

The pickles are a magic number, a version, facts about the machine, the object, and the keys of the
storages in their order in the file. A storage is its number of elements in eight bytes and then the
elements, all little endian. Only the object's pickle shows the dtype of a storage. It is therefore
read twice: first to find the positions of the storages, then to make the tensors. Source of the
format: ``_legacy_save`` in torch's ``serialization.py``, and files that it wrote.
"""

from typing import Any

from npbn.checkpoint.torch_names import Arguments, Name, Names, short
from npbn.checkpoint.torch_pickle import load_first
from npbn.checkpoint.torch_plain import PlainData
from npbn.checkpoint.torch_tensors import Tensors
from npbn.checkpoint.torch_zip import Bytes, Record
from npbn.errors import CheckpointError

MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_VERSION = 1001
_SHORT = 4096  # bytes, more than the pickles before the object's have


def is_legacy(start: bytes) -> bool:
    """Return whether a file with these first bytes is in this format."""
    return MAGIC in start[:32]  # in protocol 4 a frame comes first


def read_legacy(file: Bytes, longest: int) -> tuple[bytes, dict[str, Record]]:
    """Return the object's pickle, of at most `longest` bytes, and the storages by name."""
    position = 0
    for expected in (None, _VERSION, None):
        value, length = load_first(bytes(file[position : position + _SHORT]), {}, _refused)
        position += length
        if expected not in (None, value):
            raise CheckpointError(f"it is of version {short(value)}, expected {expected}")
    start = position
    sizes: dict[str, int] = {}
    window = bytes(file[start : start + longest])
    plain = PlainData(len(window))
    names = {**plain.names(), **_stand_ins()}

    def note(persistent_id: Any) -> None:
        kind, key = _kind_and_key(without_view(persistent_id))
        if sizes.setdefault(key, kind.itemsize) != kind.itemsize:
            raise CheckpointError(f"the storage {short(key)} is used with several dtypes")

    _, length = load_first(window, names, note, builders=plain.builders)
    position = start + length
    keys, more = load_first(bytes(file[position : position + longest]), {}, _refused)
    return window[:length], _records(file, position + more, keys, sizes)


def without_view(persistent_id: Any) -> Any:
    """Return the persistent id of a storage in the form of the newer format."""
    if type(persistent_id) is not tuple or len(persistent_id) != 6:
        raise CheckpointError(f"a persistent id is {short(persistent_id)}, expected a storage")
    if persistent_id[5] is not None:
        raise CheckpointError("it contains a storage within another, of torch before 0.4")
    return persistent_id[:5]


def _records(file: Bytes, position: int, keys: Any, sizes: dict[str, int]) -> dict[str, Record]:
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError(f"the keys of its storages are {short(keys)}, expected strings")
    records: dict[str, Record] = {}
    for key in keys:
        if key not in sizes or f"data/{key}" in records:
            raise CheckpointError(f"the storage {short(key)} occurs twice, or belongs to no tensor")
        number = int.from_bytes(file[position : position + 8], "little")
        size, position = number * sizes[key], position + 8
        if position + size > len(file):
            raise CheckpointError(
                f"it is cut short or damaged: the storage {short(key)} should have {number} "
                f"elements, and {max(len(file) - position, 0)} bytes are left"
            )
        records[f"data/{key}"] = Record(position, size, 0, False)
        position += size
    if position != len(file):
        raise CheckpointError(f"{len(file) - position} bytes follow its storages")
    return records


def _stand_ins() -> Names:
    """Return the globals of tensors, with calls that return None."""
    return {
        key: Name(name.label, name.call and (lambda args: None), name.value)
        if isinstance(name, Name)
        else name
        for key, name in Tensors(b"", {}, "little", False).names().items()
    }


def _kind_and_key(persistent_id: Arguments) -> tuple[Any, str]:
    _, kind, key, *_ = persistent_id
    storage_type = kind.value if isinstance(kind, Name) else None
    if not hasattr(storage_type, "itemsize") or type(key) is not str:
        values = ", ".join(map(short, persistent_id))
        raise CheckpointError(f"a persistent id is ({values}), expected a storage")
    return storage_type, key


def _refused(persistent_id: Any) -> None:
    raise CheckpointError("it refers to a storage before there is any")
