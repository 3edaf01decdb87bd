"""Files that are damaged, foreign or hostile give one clear error, or what was saved."""

import io
import json
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import settings

import npbn
from npbn.checkpoint import Checkpoint, load, save
from npbn.errors import CheckpointError

SUFFIXES = (".npz", ".safetensors")
THOROUGH = settings.default.max_examples >= 100
# Nested, so that damage to the description shows too.
STATE = {
    "net": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)},
    "on": np.array([True, False]),
    "rest": [1, 2.5, (None, "x", 2**90)],
}
FLAT = {"w": np.arange(4, dtype=np.float16), "b": np.zeros((0, 2))}


def same(mine, its):
    return repr(mine) == repr(its)


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


def outcome(path, data):
    """Load these bytes; return the state and metadata, or None for one clear error."""
    path.write_bytes(data)
    try:
        found = load(path)
    except CheckpointError:
        return None
    return dict(found), found.metadata


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [STATE, FLAT], ids=["nested", "flat"])
def test_a_truncated_file_is_refused(tmp_path, suffix, state):
    path = tmp_path / f"x{suffix}"
    save(state, path)
    data = path.read_bytes()
    for length in range(0, len(data), 1 if THOROUGH else 7):
        assert outcome(path, data[:length]) is None, length
    assert outcome(path, data[:-1]) is None
    assert outcome(path, data + b"\0") is None


@pytest.mark.parametrize("state", [STATE, FLAT], ids=["nested", "flat"])
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path, suffix, state):
    """In .safetensors the values have no checksum: there a byte may change values, nothing else."""
    path = tmp_path / f"x{suffix}"
    save(state, path, metadata={"epoch": 3})
    data = path.read_bytes()
    expected = outcome(path, data)
    values = len(data)
    if suffix == ".safetensors":
        values = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    seen = set()
    for place in range(0, values, 1 if THOROUGH else 3):
        for flip in rng.choice(255, 3 if THOROUGH else 1, replace=False) + 1:
            damaged = bytearray(data)
            damaged[place] ^= int(flip)
            found = outcome(path, bytes(damaged))
            seen.add(found is None)
            assert found is None or same(found, expected), (place, flip)
    assert seen == {True, False} or not THOROUGH
    for place in range(values, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 255
        found = outcome(path, bytes(damaged))
        assert found is None or (found[0].keys(), found[1]) == (expected[0].keys(), expected[1])


def test_noise_is_refused(tmp_path, suffix):
    rng = np.random.default_rng(0)
    for start in (b"", b"PK\3\4", b"PK\5\6", b"\x20\0\0\0\0\0\0\0{", b"\x80\x02}", b"\x93NUMPY"):
        for _ in range(100 if THOROUGH else 10):
            assert outcome(tmp_path / f"x{suffix}", start + rng.bytes(rng.integers(0, 90))) is None


def test_a_file_of_another_kind_is_refused(tmp_path, suffix):
    path, other = tmp_path / f"x{suffix}", tmp_path / f"y{SUFFIXES[suffix == SUFFIXES[0]]}"
    save(STATE, other)
    assert outcome(path, other.read_bytes()) is None
    assert outcome(path, pickle.dumps(1)) is None
    assert outcome(path, b"") is None


# -- hostile --------------------------------------------------------------------------------------


def members(path, parts, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in parts:
            archive.writestr(name, data)


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


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


def header(shape, descr="'<f8'", more=b""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + more


def npz_parts(*parts, **options):
    return lambda path: members(path, parts, **options)


def tensors(entries, data=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    length = len(text) if length is None else length
    return lambda path: path.write_bytes(struct.pack("<Q", length) + text + data)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HUGE = 10**12
NPZ = {
    "shape beyond the file": npz_parts(("a.npy", header((HUGE,)))),
    "shape of 2**64": npz_parts(("a.npy", header((2**32, 2**32)))),
    "negative shape": npz_parts(("a.npy", header((-1, -8), more=b"12345678" * 8))),
    "shape short of the file": npz_parts(("a.npy", header((1,), more=b"1234567812345678"))),
    "shape beyond its deflated data": npz_parts(
        ("a.npy", header((HUGE,))), compression=zipfile.ZIP_DEFLATED
    ),
    "header that is no header": npz_parts(("a.npy", b"\x93NUMPY\1\0\4\0'''\n")),
    "header of deep nesting": npz_parts(("a.npy", header("(" * 9000))),
    "header that calls": npz_parts(("a.npy", header("__import__('os')"))),
    "header of version 9": npz_parts(("a.npy", b"\x93NUMPY\x09\0" + header((1,))[8:])),
    "dtype of records": npz_parts(("a.npy", npy(np.zeros(1, "f4,f4")))),
    "dtype of strings": npz_parts(("a.npy", npy(np.zeros(1, "U4")))),
    "dtype complex": npz_parts(("a.npy", npy(np.zeros(1, complex)))),
    "dtype of void of size 0": npz_parts(("a.npy", header((HUGE,), "'|V0'"))),
    "too many dimensions": npz_parts(("a.npy", header((1,) * 65, more=b"12345678"))),
    "no array": npz_parts(("a.txt", b"hello")),
    "torch's file": npz_parts(("archive/data.pkl", b"\x80\2}."), ("archive/data/0", b"1234")),
    "lzma": npz_parts(("a.npy", npy(np.zeros(9))), compression=zipfile.ZIP_LZMA),
    "description alone": npz_parts(("npbn.json", b"{}")),
    "description of nonsense": npz_parts(("npbn.json", b"[" * 100_000)),
}
TENSORS = {
    "header beyond the file": tensors({}, length=2**62),
    "header of 2 GB": tensors({}, length=2**31),
    "header of no dict": tensors([]),
    "header of deep nesting": tensors(b"[" * 100_000),
    "header of UTF-16": tensors("{}".encode("utf-16")),
    "metadata of no strings": tensors({"__metadata__": {"a": 1}}),
    "metadata of no dict": tensors({"__metadata__": []}),
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
    with pytest.raises(CheckpointError, match="more is said to be in the archive"):
        load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    members(tmp_path / "x.npz", [("a.npy", npy(np.zeros(1))), ("a.npy", npy(np.ones(1)))])
    with pytest.raises(CheckpointError, match=r"once, got 'a\.npy'"):
        load(tmp_path / "x.npz")


# -- files of other programs ----------------------------------------------------------------------


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_plain_npz_files_load(tmp_path, writer):
    state = {"a": np.arange(3.0), "b": np.asfortranarray(np.eye(3)[:2]), "c": np.array(1, ">i2")}
    writer(tmp_path / "x.npz", **state)
    found = load(tmp_path / "x.npz")
    assert found.metadata == {}
    assert found["b"].flags.f_contiguous
    assert found["c"].dtype == np.int16
    assert all(np.array_equal(found[key], state[key]) for key in state)


def test_plain_safetensors_files_load(tmp_path):
    from safetensors.numpy import save_file

    state = {"a": np.arange(3.0), "b": np.zeros((2, 0), np.int8), "c": np.array(True)}
    save_file(state, tmp_path / "x.safetensors", {"format": "np"})
    found = load(tmp_path / "x.safetensors")
    assert found.metadata == {"format": "np"}
    assert found.keys() == state.keys()
    assert all(found[key].dtype == state[key].dtype for key in state)
    assert all(np.array_equal(found[key], state[key]) for key in state)


def test_bfloat16_becomes_float32_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    save_file({"a": every.reshape(2, -1)}, tmp_path / "x.safetensors")
    found = load(tmp_path / "x.safetensors")["a"]
    expected = every.float().reshape(2, -1).numpy()
    assert found.dtype == np.float32
    numbers = ~np.isnan(expected)
    assert (found.view(np.uint32)[numbers] == expected.view(np.uint32)[numbers]).all()
    assert np.isnan(found[~numbers]).all()


def test_arrays_that_lie_unaligned_in_the_file_are_copied(tmp_path):
    values = np.arange(2, dtype=np.float32)
    text = json.dumps({"a": entry(shape=(2,), offsets=(0, 8))}).encode()
    for padding in range(4):
        tensors(text + b" " * padding, values.tobytes())(tmp_path / "x.safetensors")
        found = load(tmp_path / "x.safetensors")["a"]
        assert found.flags.aligned
        assert (found == values).all()


# -- what is in our own ---------------------------------------------------------------------------


def test_a_module_is_saved_with_its_description(tmp_path, suffix):
    from npbn.config import from_config

    net = npbn.CNN(1, 8, hidden_dim=4, rng=np.random.default_rng(0))
    save(net, tmp_path / f"x{suffix}", metadata={"epoch": 3})
    found = load(tmp_path / f"x{suffix}")
    assert found.metadata["epoch"] == 3
    other = from_config(found.metadata["config"])
    assert other.load_state_dict(found) == ([], [])
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    assert (other.predict(x) == net.predict(x)).all()
    assert list(found) == list(net.state_dict())


def test_a_module_of_one_s_own_is_saved_without(tmp_path):
    class Mine(npbn.Module):
        def __init__(self):
            self.layer = npbn.Linear(2, 2)

    save(Mine(), tmp_path / "x.npz")
    assert load(tmp_path / "x.npz").metadata.keys() == {"npbn_version", "format"}


def test_metadata_go_with_a_checkpoint_that_is_saved_again(tmp_path):
    save(STATE, tmp_path / "x.npz", metadata={"epoch": 3, "npbn_version": "forged", "nan": [{}]})
    found = load(tmp_path / "x.npz")
    assert found.metadata == {
        "epoch": 3,
        "nan": [{}],
        "npbn_version": npbn.__version__,
        "format": 1,
    }
    save(found, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors")
    assert isinstance(again, Checkpoint)
    assert (again.metadata, repr(dict(again))) == (found.metadata, repr(STATE))
    save(found, tmp_path / "x.npz", metadata={})
    assert load(tmp_path / "x.npz").metadata.keys() == {"npbn_version", "format"}


@pytest.mark.parametrize("size", [60_000, 65_536, 500_000])
def test_long_descriptions_come_back(tmp_path, suffix, size):
    state = {"text": "x" * size, "npbn.json": np.zeros(2)}
    save(state, tmp_path / f"x{suffix}")
    assert same(dict(load(tmp_path / f"x{suffix}")), state)


def test_a_later_format_is_refused(tmp_path, monkeypatch, suffix):
    from npbn.checkpoint import description

    with monkeypatch.context() as later:
        later.setattr(description, "FORMAT", 2)
        save(STATE, tmp_path / f"x{suffix}")
    with pytest.raises(CheckpointError, match="format 1, got 2, of npbn"):
        load(tmp_path / f"x{suffix}")


def test_arrays_that_another_program_changed_are_named(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "x.safetensors"
    save(FLAT, path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    for change, words in (
        ({"w": FLAT["w"].astype(np.float32)}, r"'w': expected \['float16', \[4\]\], got .*float32"),
        ({"c": FLAT["w"]}, "'c': expected nothing"),
        ({"w": None}, "'w': expected .* got nothing"),
    ):
        state = {k: v for k, v in {**load_file(path), **change}.items() if v is not None}
        save_file(state, tmp_path / "y.safetensors", metadata)
        with pytest.raises(CheckpointError, match=words):
            load(tmp_path / "y.safetensors")


def test_equal_states_give_equal_files(tmp_path):
    for name in ("x.npz", "y.npz"):
        save(STATE, tmp_path / name)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_mapped_arrays_are_the_callers(tmp_path, suffix):
    """Changing them changes no file, and a file that is replaced or deleted changes no array."""
    path = tmp_path / f"x{suffix}"
    save(FLAT, path)
    data = path.read_bytes()
    found = load(path)
    found["w"][0] = 5
    assert path.read_bytes() == data
    assert load(path)["w"][0] == 0
    save({"w": np.full(1000, 7.0)}, path)
    assert found["w"].tolist() == [5, 1, 2, 3]
    path.unlink()
    assert found["w"].tolist() == [5, 1, 2, 3]


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "x.pkl", "x.npy", ".npz", "npz", "x.npz.gz"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=rf"{name}: expected a name in \.npz or \.safetens"):
        save({}, tmp_path / name)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=rf"{name}: expected a name in \.npz, \.safetens"):
        load(tmp_path / name)


def test_suffixes_in_capitals_are_known(tmp_path):
    save(FLAT, tmp_path / "x.NPZ")
    assert same(dict(load(os.fspath(tmp_path / "x.NPZ"))), FLAT)


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.pt", "x"])
def test_folders_and_missing_files_say_so(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path / name)
    assert error.value.filename == str(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as error:
        load(tmp_path / name)
    assert error.value.filename == str(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    for attempt in (lambda: load(tmp_path / "x.npz"), lambda: save({}, tmp_path / "x.npz")):
        with pytest.raises((CheckpointError, OSError), match="pipe"):
            attempt()


def test_without_the_package_safetensors_are_read_but_not_written(tmp_path, monkeypatch):
    save(FLAT, tmp_path / "x.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert same(dict(load(tmp_path / "x.safetensors")), FLAT)
    with pytest.raises(CheckpointError, match=r"pip install 'npbn\[checkpoints\]'"):
        save(STATE, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert same(dict(load(tmp_path / "x.safetensors")), FLAT)
