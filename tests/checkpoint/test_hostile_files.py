"""Files that lie about their contents are refused, at little cost, and nothing in them runs."""

import json
import os
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from checkpoint.by_hand import entry, header, members, npy, npz_parts, tensors
from checkpoint.states import SUFFIXES

from npbn.checkpoint import load
from npbn.checkpoint.description import FORMAT
from npbn.errors import CheckpointError


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_objects_in_an_npz_are_refused_and_run_nothing(tmp_path):
    touched = tmp_path / "touched"
    np.savez(tmp_path / "x.npz", a=np.array([Touch(str(touched))], object))
    with pytest.raises(CheckpointError, match=r"x\.npz: .*'a\.npy'.*object.*never unpickled"):
        load(tmp_path / "x.npz")
    assert not touched.exists()
    with np.load(tmp_path / "x.npz", allow_pickle=True) as archive:
        archive["a"]
    assert touched.exists(), "it would have run"


HUGE = 10**12
# Multiples of 2**61 - 1 have the same hash: these took 69 s, though the file has 200 KB.
COLLIDING = {"items": [[{"int": hex(k * (2**61 - 1))}, None] for k in range(1, 7000)]}


def described(path, skeleton):
    """Write an .npz whose description is sound and has this skeleton."""
    body = {"metadata": {"npbn_version": "1", "format": FORMAT}, "arrays": {}, "state": skeleton}
    text = json.dumps({**body, "crc32": zlib.crc32(json.dumps(body).encode())})
    members(path, [("npbn.json", text)])


NPZ = {
    "shape beyond the file": npz_parts(("a.npy", header((HUGE,)))),
    "shape of 2**64": npz_parts(("a.npy", header((2**32, 2**32)))),
    "negative shape": npz_parts(("a.npy", header((-1, -8), more=b"12345678" * 8))),
    "shape short of the file": npz_parts(("a.npy", header((1,), more=b"1234567812345678"))),
    "shape beyond its deflated data": npz_parts(
        ("a.npy", header((HUGE,))), compression=zipfile.ZIP_DEFLATED
    ),
    "header that is no header": npz_parts(("a.npy", b"\x93NUMPY\1\0\4\0'''\n")),
    "header of deep nesting": npz_parts(("a.npy", header("(" * 3000))),
    "header that calls": npz_parts(("a.npy", header("__import__('os')"))),
    "header of version 9": npz_parts(("a.npy", b"\x93NUMPY\x09\0" + header((1,))[8:])),
    "dtype of records": npz_parts(("a.npy", npy(np.zeros(1, "f4,f4")))),
    "dtype of strings": npz_parts(("a.npy", npy(np.zeros(1, "U4")))),
    "dtype of 16 bytes": npz_parts(("a.npy", header((1,), "'<f16'", bytes(16)))),
    "dtype of void of size 0": npz_parts(("a.npy", header((HUGE,), "'|V0'"))),
    "too many dimensions": npz_parts(("a.npy", header((1,) * 65, more=b"12345678"))),
    "no array": npz_parts(("a.txt", b"hello")),
    "bools of 2": npz_parts(("a.npy", header((4,), "'|b1'", b"\0\1\2\1"))),
    "lzma": npz_parts(("a.npy", npy(np.zeros(9))), compression=zipfile.ZIP_LZMA),
    "description alone": npz_parts(("npbn.json", b"{}")),
    "description of nonsense": npz_parts(("npbn.json", b"[" * 100_000)),
    "description that grows": npz_parts(
        ("npbn.json", b"[" + b"[]," * 5_000_000 + b"0]"), compression=zipfile.ZIP_DEFLATED
    ),
    "description with integer keys that collide": lambda path: described(path, COLLIDING),
    "description with a set that collides": lambda path: described(
        path, {"set": [key for key, _ in COLLIDING["items"]]}
    ),
}
TENSORS = {
    "header beyond the file": tensors({}, length=2**62),
    "header of 2 GB": tensors({}, length=2**31),
    "header of no dict": tensors([]),
    "header of deep nesting": tensors(b"[" * 100_000),
    "header of UTF-16": tensors("{}".encode("utf-16")),
    "metadata of no strings": tensors({"__metadata__": {"a": 1}}),
    "metadata of no dict": tensors({"__metadata__": []}),
    "metadata that are null": tensors({"__metadata__": None}),
    "a key of 1 MB": tensors({"a" * 1_000_000: entry("F8_E4M3", (4,))}, b"1234"),
    "shape beyond the file": tensors({"a": entry(shape=(HUGE,), offsets=(0, 4 * HUGE))}),
    "shape beyond its data": tensors({"a": entry(shape=(HUGE,))}, b"1234"),
    "shape short of its data": tensors({"a": entry(offsets=(0, 8))}, b"12345678"),
    "shape of floats": tensors({"a": entry(shape=(1.0,))}, b"1234"),
    "shape of bools": tensors({"a": entry(shape=(True,))}, b"1234"),
    "negative shape": tensors({"a": entry(shape=(-1, -1))}, b"1234"),
    "shape of 50,000 dimensions": tensors({"a": entry(shape=(10**9,) * 50_000)}),
    "negative offsets": tensors({"a": entry(offsets=(-4, 0))}, b"1234"),
    "offsets in reverse": tensors({"a": entry(shape=(0,), offsets=(4, 0))}, b"1234"),
    "three offsets": tensors({"a": entry(offsets=(0, 4, 4))}, b"1234"),
    "a gap": tensors({"a": entry(offsets=(4, 8))}, b"12345678"),
    "a rest": tensors({"a": entry()}, b"12345678"),
    "an overlap": tensors({"a": entry(), "b": entry()}, b"1234"),
    "unknown dtype": tensors({"a": entry("F8_E4M3", (4,))}, b"1234"),
    "unhashable dtype": tensors({"a": entry([], (4,))}, b"1234"),
    "no dtype": tensors({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "bools of 2": tensors({"a": entry("BOOL", (4,))}, b"\0\1\2\1"),
    "a name twice": tensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
    "half a description": tensors({"__metadata__": {"npbn": "{}"}}),
    "the other half": tensors({"__metadata__": {"npbn_version": "0.1"}}),
}


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        pytest.param(suffix, write, id=f"{suffix} {name}")
        for suffix, table in zip(SUFFIXES, (NPZ, TENSORS), strict=True)
        for name, write in table.items()
    ],
)
def test_a_hostile_file_is_refused_at_little_cost(tmp_path, kind, write):
    path = tmp_path / f"x{kind}"
    write(path)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as error:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 1000


def test_what_deflate_cannot_do_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(10**6))
    assert load(path)["a"].shape == (10**6,)
    data = bytearray(path.read_bytes())
    size = struct.pack("<L", 8 * 10**6 + 128)
    place = data.rindex(size)  # in the directory
    data[place : place + 4] = struct.pack("<L", 2**31)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot unpack"):
        load(path)


def patched(path, old, new):
    """Write another number into the archive's directory, where it occurs last."""
    data, old = bytearray(path.read_bytes()), struct.pack("<L", old)
    place = data.rindex(old)
    data[place : place + 4] = struct.pack("<L", new)
    path.write_bytes(data)


def test_deflated_data_that_end_early_are_refused(tmp_path):
    """The checksum is right: it is of the data that are there."""
    path, short = tmp_path / "x.npz", header((200,), more=bytes(800))
    members(path, [("a.npy", short)], compression=zipfile.ZIP_DEFLATED)
    patched(path, len(short), len(short) + 800)
    with pytest.raises(CheckpointError, match=r"expected 1600 bytes, got 800|EOF"):
        load(path)


def test_more_than_the_file_can_hold_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).random(5))
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].compress_size
    patched(path, size, 10**6)
    with pytest.raises(CheckpointError, match="the archive promises more"):
        load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    members(tmp_path / "x.npz", [("a.npy", npy(np.zeros(1))), ("a.npy", npy(np.ones(1)))])
    with pytest.raises(CheckpointError, match=r"once, got 'a\.npy'"):
        load(tmp_path / "x.npz")
