"""The format of torch.save before 1.6: what torch.load reads, by the same names and guards.

Of twenty small weight files that packages ship, fourteen are of this format.
"""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from checkpoint.fuzz_torch_file import FLOATS, load_or_refuse, name, program, state, text
from checkpoint.fuzz_torch_file import storage as new_storage
from checkpoint.hostile import HUGE, read_and_mapped, refusal
from checkpoint.test_torch_file import FLOATS as FLOAT_TYPES
from checkpoint.test_torch_file import INTEGERS, assert_same, draw
from checkpoint.test_torch_fuzz import mutate
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.checkpoint.torch_file import load_torch

MAGIC = 0x1950A86A20F9469CFC6C
pytestmark = pytest.mark.filterwarnings("ignore")  # torch is to forget this format


def save(value, path, **options):
    torch.save(value, path, _use_new_zipfile_serialization=False, **options)


def read_as_torch_does(path, value, **options):
    save(value, path, **options)
    found = load_torch(path)
    assert_same(found, torch.load(path, weights_only=False))
    return found


def by_hand(value, keys=("0", "1"), storages=None, version=1001, magic=MAGIC):
    """Return a file with this pickle of an object."""
    start = [magic, version, {"protocol_version": 1001, "little_endian": True}]
    storages = [struct.pack("<Q", 4) + FLOATS] * 2 if storages is None else storages
    pickles = [*(pickle.dumps(part, 2) for part in start), value, pickle.dumps(list(keys), 2)]
    return b"".join([*pickles, *storages])


def storage(view=b"N", **options):
    """Return a persistent id with the one value more that these have."""
    return new_storage(**options)[:-2] + view + b"tQ"


def tensor(of, size=(4,)):
    from checkpoint.fuzz_torch_file import tensor

    return tensor(of, size=size)


def both():
    return state(tensor(storage()), tensor(storage(key="1")))


# -- what is read ---------------------------------------------------------------------------------


@read_and_mapped
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_dtype(path, protocol):
    kept = [t for t in [*FLOAT_TYPES, *INTEGERS, "bool"] if t not in ("uint16", "uint32", "uint64")]
    value = {dtype: draw(dtype, 3, 5) for dtype in kept}
    read_as_torch_does(path, value, pickle_protocol=protocol)


@read_and_mapped
def test_views_share_their_storage(path):
    base = draw("float32", 4, 6)
    found = read_as_torch_does(path, [base, base.t(), base[1:3, ::2], base[0], torch.ones(0, 3)])
    assert np.shares_memory(found[0], found[1])
    assert all(array.flags.aligned for array in found)
    found[0][0, 0] = 7
    assert found[3][0] == 7


def test_a_network_and_its_optimizer(path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.randn(5, 3)).pow(2).sum().backward()
    optimizer.step()
    value = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    read_as_torch_does(path, value)
    mine = npbn.Sequential(npbn.Linear(3, 4), npbn.BatchNorm1d(4))
    mine.load_state_dict(npbn.load(path, key="model"))
    x = torch.randn(6, 3)
    np.testing.assert_allclose(
        mine.eval().predict(x.numpy()), net.eval()(x).detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_a_tensor_and_an_object_without_any(path):
    read_as_torch_does(path, torch.arange(6.0).view(2, 3))
    read_as_torch_does(path, {"epoch": 3, "of": [1, "a", (None, 2.5)]})


@pytest.mark.parametrize("file", ["x.pth.tar", "x.bin", "x.ckpt", "x", "x.npz"])
def test_it_is_told_by_its_content(tmp_path, file):
    save({"w": torch.ones(2)}, tmp_path / file)
    assert npbn.load(tmp_path / file)["w"].tolist() == [1, 1]


def test_strings_of_python_2(path):
    """They are U and T in a pickle, and __builtin__ is builtins there."""
    long = "ab" * 200
    value = program(b"}(", b"U\1a", b"T", struct.pack("<I", 400), long.encode(), b"u")
    path.write_bytes(by_hand(value, [], []))
    assert load_torch(path) == {"a": long}
    pairs = b"](]" + b"(U\1aK\1e]" + b"(U\1bK\2ee"
    path.write_bytes(by_hand(program(name("collections", "OrderedDict"), pairs, b"\x85R"), [], []))
    assert load_torch(path) == {"a": 1, "b": 2}


# -- what is refused ------------------------------------------------------------------------------


@read_and_mapped
@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_cut_short_anywhere_or_longer(path, step):
    save({"a": torch.arange(6.0), "b": torch.ones(5, dtype=torch.bfloat16)}, path)
    content = path.read_bytes()
    for length in {*range(0, len(content), step), *range(len(content) - 60, len(content))}:
        assert refusal(path, content[:length])
    assert "1 bytes follow its storages" in refusal(path, content + b"\0")


class Runs:
    def __init__(self, *recipe):
        self.recipe = recipe

    def __reduce__(self):
        return self.recipe


def test_nothing_runs(path):
    canary = path.parent / "canary"
    save({"w": torch.ones(2), "x": Runs(os.system, (f"touch {canary}",))}, path)
    assert "system', which a state does not need, and nothing was run" in refusal(path)
    for start in range(3):  # the pickles before the object's
        parts = [MAGIC, 1001, {}, {}]
        parts[start] = Runs(os.system, (f"touch {canary}",))
        content = b"".join(pickle.dumps(part, 2) for part in parts)
        refusal(path, content + pickle.dumps(MAGIC, 2))
    assert not canary.exists()


def test_storages_that_lie(path):
    path.write_bytes(by_hand(both()))
    assert load_torch(path)["1"].tolist() == [1, 2, 3, 4]
    for number in (5, 1 << 40, HUGE, (1 << 64) - 1):
        lie = [struct.pack("<Q", number) + FLOATS, struct.pack("<Q", 4) + FLOATS]
        refusal(path, by_hand(both(), storages=lie))
        assert "cut short or damaged" in refusal(path, by_hand(both(), storages=lie[::-1]))
    short = [struct.pack("<Q", 2) + FLOATS[:8], struct.pack("<Q", 4) + FLOATS]
    assert "expect 4 elements" in refusal(path, by_hand(both(), storages=short))


@pytest.mark.parametrize("keys", [["0"], ["0", "0"], ["0", "1", "2"], [0, 1], ["1", "x"]])
def test_keys_that_lie(path, keys):
    refusal(path, by_hand(both(), keys))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (state(tensor(storage(view=b"K\1"))), "within another"),
        (state(tensor(new_storage())), "expected a storage"),
        (state(tensor(storage()), tensor(storage(kind="DoubleStorage"))), "several dtypes"),
        (state(tensor(storage(kind="HalfStorage", number=8), size=(9,))), "storage"),
        (program(b"}", text("a"), b"NsN"), "too early or too late"),
        (program(b"]q\0h\0a"), "contains itself"),
        (program(b"}" * 2000), "too early or too late"),
    ],
)
def test_objects_that_lie(path, value, words):
    storages = [struct.pack("<Q", 4) + FLOATS]
    keys = ["0"] if b"storage" in value else []
    assert words in refusal(path, by_hand(value, keys, storages[: len(keys)]))


def test_another_version_and_references_too_early(path):
    assert "it is of version 1000, expected 1001" in refusal(path, by_hand(both(), version=1000))
    content = pickle.dumps(MAGIC, 2) + program(b"NQ")
    assert "before there is any" in refusal(path, content)


def test_an_object_of_many_values_takes_memory_in_proportion(path, monkeypatch):
    from npbn.checkpoint import torch_file

    monkeypatch.setattr(torch_file, "_LONGEST_PICKLE", 1000)
    assert refusal(path, by_hand(program(b"]" * 1500 + b"a" * 1499), [], []))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("legacy")


@given(data=st.data())
def test_fuzz_changed_files(folder, data):
    content = bytearray(by_hand(both()))
    mutate(data, content)
    load_or_refuse(folder / "file", bytes(content))
