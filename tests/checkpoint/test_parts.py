"""Real checkpoints: told by content, and the state within them reached.

A root that is no dict gave nonsense or a bare TypeError, other file names were refused, and nothing
said which command takes what is in a file.
"""

import io

import numpy as np
import pytest
import torch
from checkpoint.states import FLAT, STATE, SUFFIXES, same

import npbn
from npbn.checkpoint import load, save
from npbn.errors import CheckpointError, StateDictError

NAMES = ["x.pth.tar", "x.bin", "x.ckpt", "x", "x.npz", "x.safetensors", "x.pt", "x.txt"]


def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


def training_program(path, prefix="module."):
    """Save what a training program does; return the state of its network."""
    state = model().state_dict()
    saved = {
        "epoch": 3,
        "state_dict": {f"{prefix}{key}": value for key, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "best": np.float64(0.5),
    }
    torch.save(saved, path)
    return {key: value.numpy() for key, value in state.items()}


@pytest.mark.parametrize("file", NAMES)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("state", [STATE, FLAT], ids=["nested", "flat"])
def test_files_of_npbn_are_told_by_their_content(tmp_path, file, suffix, state):
    save(state, tmp_path / f"saved{suffix}", metadata={"epoch": 3})
    (tmp_path / f"saved{suffix}").rename(tmp_path / file)
    found = load(tmp_path / file)
    assert same(dict(found), state)
    assert found.metadata["epoch"] == 3


@pytest.mark.parametrize("file", NAMES)
def test_files_of_others_are_told_by_their_content(tmp_path, file):
    from safetensors.numpy import save_file

    path, state = tmp_path / file, {"w": np.arange(3.0)}
    for write in (
        lambda: torch.save({"w": torch.arange(3.0, dtype=torch.float64)}, path),
        lambda: save_file(state, path),
        lambda: path.write_bytes(npz_of(np.savez, state)),
        lambda: path.write_bytes(npz_of(np.savez_compressed, state)),
    ):
        path.unlink(missing_ok=True)
        write()
        assert same(dict(load(path)), state)


def npz_of(writer, state):
    file = io.BytesIO()
    writer(file, **state)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x93NUMPY\1\0", bytes(1000)])
def test_what_is_of_no_format_is_refused_by_its_first_bytes(tmp_path, content):
    (tmp_path / "x.pth.tar").write_bytes(content)
    with pytest.raises(CheckpointError, match="begins with b'") as caught:
        load(tmp_path / "x.pth.tar")
    assert repr(content[:8]) in str(caught.value)


def test_key_and_prefix_reach_the_state(tmp_path):
    path = tmp_path / "run.pth.tar"
    state = training_program(path)
    found = load(path, key="state_dict", strip_prefix="module.")
    assert same(dict(found), state)
    net = npbn.Sequential(npbn.Linear(3, 2), npbn.BatchNorm1d(2))
    net.load_state_dict(found)
    assert load(path, key="state_dict").keys() == {f"module.{key}" for key in state}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_keys_with_dots_reach_mappings_in_mappings(tmp_path, suffix):
    state = {"a.b": {"c": {"w": np.ones(1)}}, "a": {"b": {"w": np.zeros(1)}}, "n": 3}
    path = tmp_path / f"x{suffix}"
    save(state, path)
    assert load(path, key="a.b")["c"]["w"] == 1, "the key itself goes before its parts"
    assert load(path, key="a")["b"]["w"] == 0
    assert load(path, strip_prefix="").keys() == state.keys()
    for key, words in [
        ("x", "there is no 'x' in it, only a.b: a mapping of 1, a: a mapping of 1, n: 3"),
        ("n", "expected a mapping as 'n', got 3"),
        ("a.x", "there is no 'x' in it, only b: a mapping of 1"),
        ("n.x", "there is no 'n.x'"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            load(path, key=key)
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=r"the key 'n' does not begin with 'a'"):
        load(path, strip_prefix="a")


ROOTS = {
    "tensor": (torch.ones(2, 3), "an array float32 (2, 3)"),
    "list": ([torch.ones(2), 3], "a list of 2"),
    "strings": (["a", "b"], "a list of 2"),
    "tuple": ((1,), "a tuple of 1"),
    "None": (None, "None"),
    "number": (5, "5"),
    "bool": (True, "True"),
    "string": ("text", "'text'"),
    "bytes": (b"raw", "b'raw'"),
    "a long string": ("x" * 10**6, "'xxx"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.filterwarnings("ignore")
def test_a_root_that_is_no_mapping_is_named(tmp_path, root, legacy):
    value, words = ROOTS[root]
    path = tmp_path / "x.pt"
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    for options in ({}, {"key": "a"}, {"strip_prefix": "module."}):
        with pytest.raises(CheckpointError) as caught:
            load(path, **options)
        assert str(caught.value).startswith(f"{path}: expected a mapping of names to tensors")
        assert f"got {words}" in str(caught.value)
        assert len(str(caught.value)) < 400 + len(str(path))


# -- what a network says to such a state ----------------------------------------------------------


def test_loading_it_as_it_is_says_how_to_reach_the_state(tmp_path):
    path = tmp_path / "run.pth.tar"
    training_program(path)
    net = npbn.Sequential(npbn.Linear(3, 2), npbn.BatchNorm1d(2))
    with pytest.raises(StateDictError, match=r"npbn\.load\(path, key='state_dict'\)"):
        net.load_state_dict(load(path))
    with pytest.raises(StateDictError, match=r"npbn\.load\(path, strip_prefix='module\.'\)"):
        net.load_state_dict(load(path, key="state_dict"))
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict({"x": np.ones(1)})
    assert "npbn.load" not in str(caught.value)


def test_a_message_about_keys_is_short_and_printable():
    net = npbn.Linear(1, 1)
    state = {f"{i}\x1b[31m{'k' * 10**5}": np.ones(1) for i in range(100)}
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(state)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 4000
    assert "and 82 more" in message


def test_bfloat16_tensors_load_as_the_file_of_them_does(tmp_path):
    state = model().bfloat16().state_dict()
    torch.save(state, tmp_path / "net.pt")
    mine, other = (npbn.Sequential(npbn.Linear(3, 2), npbn.BatchNorm1d(2)) for _ in range(2))
    mine.load_state_dict(state)
    other.load_state_dict(npbn.load(tmp_path / "net.pt"))
    for key, array in mine.state_dict().items():
        assert array.tobytes() == other.state_dict()[key].tobytes()
    built = npbn.from_state_dict(state, {"0": None, "1": None})
    assert built.state_dict().keys() == mine.state_dict().keys()
    npbn.save(state, tmp_path / "net.npz")
    assert npbn.load(tmp_path / "net.npz")["0.weight"].dtype == np.float32
