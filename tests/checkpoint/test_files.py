"""Files: other programs' and npbn's own, what is in them, and what they may be called."""

import json
import os
import sys

import numpy as np
import pytest
from checkpoint.by_hand import entry, tensors
from checkpoint.states import FLAT, STATE, SUFFIXES, same

import npbn
from npbn.checkpoint import Checkpoint, load, save
from npbn.errors import CheckpointError


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


# -- files of other programs -----------------------------------------------------------------------


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


# -- what is in our own ----------------------------------------------------------------------------


def test_a_module_is_saved_with_its_description(tmp_path, suffix):
    from npbn.deploy.config import from_config

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


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "x.pkl", "x.npy", ".npz", "npz", "x.npz.gz"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=rf"{name}: expected a name that ends in \.npz"):
        save({}, tmp_path / name)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=rf"{name}: expected \.npz, \.safetens"):
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
