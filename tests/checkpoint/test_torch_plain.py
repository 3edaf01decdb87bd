"""What training programs put beside tensors: read as plain data, and written again.

Bytes as torch.save writes them, sets, NumPy's numbers and arrays, and namespaces were refused.
"""

import argparse
import collections
import types
from itertools import product

import numpy as np
import pytest
import torch
from checkpoint.fuzz_torch_file import archive, call, group, integers, name, program, text
from checkpoint.hostile import damage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npbn
from npbn.checkpoint.torch_file import load_torch

PROTOCOLS = [2, 3, 4, 5]


def through(path, value, **options):
    torch.save({"value": value}, path, **options)
    return load_torch(path)["value"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", b""),
        (b"a\xff\0" * 100, b"a\xff\0" * 100),
        ({1, 2, "a", None}, {1, 2, "a", None}),
        (set(), set()),
        (argparse.Namespace(lr=0.1, gpus=[0], inner=argparse.Namespace(a=1)),
         {"lr": 0.1, "gpus": [0], "inner": {"a": 1}}),
        (types.SimpleNamespace(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.defaultdict(None, a=1), {"a": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (torch.Size([2, 3]), (2, 3)),
        (torch.float32, "torch.float32"),
        (torch.device("cpu"), "cpu"),
        (torch.device("cuda", 1), "cuda:1"),
        (np.float64(1.5), np.float64(1.5)),
        (np.int32(-7), np.int32(-7)),
        (np.bool_(True), np.bool_(True)),
    ],
)  # fmt: skip
def test_values(path, value, expected):
    for protocol, legacy in product(PROTOCOLS, (False, True)):
        options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
        found = through(path, value, **options)
        assert found == expected, options
        assert type(found) is type(expected) or isinstance(value, torch.dtype), options


@pytest.mark.parametrize("protocol", [2, 3])  # above, pickle has an operation of its own for it
def test_a_frozenset_is_a_set(path, protocol):
    assert through(path, frozenset("ab"), pickle_protocol=protocol) == {"a", "b"}


ARRAYS = hnp.arrays(
    st.sampled_from(["?", "i1", "<i2", ">i4", "<i8", "u1", "<u8", "<f2", ">f4", "<f8", "<c8"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)


@given(array=ARRAYS, order=st.sampled_from("CF"), protocol=st.sampled_from(PROTOCOLS[:3]))
def test_arrays_of_numpy(tmp_path_factory, array, order, protocol):
    array = np.array(array, order=order)
    found = through(tmp_path_factory.mktemp("a") / "a.pt", array, pickle_protocol=protocol)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.shape == array.shape
    assert found.tobytes() == array.astype(found.dtype).tobytes()
    assert found.flags.writeable


def test_an_array_that_occurs_twice_is_one(path):
    array = np.arange(3)
    one, other = through(path, [array, array])
    assert one is other


def test_what_a_training_program_saves_is_written_again(tmp_path):
    """`npbn convert` could not write what `load` returned."""
    net = torch.nn.BatchNorm1d(2)
    value = {
        "state_dict": net.state_dict(),
        "args": argparse.Namespace(lr=0.1, name=b"raw", seen={1, 2}),
        "best": np.float32(0.5),
        "history": np.arange(3.0),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "epochs": {1: "a", 2.5: "b", None: "c", 0.5: float("nan")},
    }
    torch.save(value, tmp_path / "run.pth.tar")
    found = npbn.load(tmp_path / "run.pth.tar")
    for file in ("run.npz", "run.safetensors"):
        npbn.save(found, tmp_path / file)
        again = npbn.load(tmp_path / file)
        assert repr(dict(again)) == repr(
            {**found, "device": str(found["device"]), "dtype": "torch.float32"}
        )


# -- what is refused ------------------------------------------------------------------------------

NDARRAY = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"))
FLOAT = call(name("numpy", "dtype"), text("f4"), b"K\0", b"K\1")
BYTES = call(name("_codecs", "encode"), text("abcd"), text("latin1"))


def array(shape=b"K\1\x85", dtype=FLOAT, fortran=b"\x89", data=BYTES, version=b"K\1"):
    return NDARRAY + group(version, shape, dtype, fortran, data) + b"b"


def test_the_array_by_hand_is_read(path):
    path.write_bytes(archive(program(array())))
    assert load_torch(path).tobytes() == b"abcd"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (array(shape=integers(2)), "has 4 bytes"),
        (array(shape=integers(-1)), "has the shape"),
        (array(shape=integers(1 << 40)), "has the shape"),
        (array(shape=integers(*(1 << 30,) * 9)), "has 4 bytes"),
        (array(shape=integers(*(1,) * 65)), "has the shape"),
        (array(shape=b"]"), "has the shape"),
        (array(dtype=b"N"), "has the dtype"),
        (array(dtype=text("f4")), "has the dtype"),
        (array(dtype=call(name("numpy", "dtype"), text("O"))), "has the dtype 'O'"),
        (array(dtype=call(name("numpy", "dtype"), text("V8"))), "has the dtype 'V8'"),
        (array(dtype=call(name("numpy", "dtype"), b"N")), "has the dtype"),
        (array(fortran=b"K\1"), "has the state"),
        (array(data=text("abcd")), "expected bytes"),
        (array(dtype=call(name("numpy", "dtype"), text("b1")), shape=integers(4)), "not 0 or 1"),
        (FLOAT, "as a value"),
        (FLOAT + group(b"K\3", text("!")) + b"b", "byte order"),
        (call(name("_codecs", "encode"), text("a"), text("utf-8")), "in latin1"),
        (call(name("_codecs", "encode"), text("\u20ac"), text("latin1")), "beyond latin1"),
        (call(name("_codecs", "encode"), text("a")), "in latin1"),
        (call(name("builtins", "set"), b"](]e"), "key is a list"),
        (call(name("builtins", "set"), b"N"), "expected a list"),
        (b"\x8f(]\x90", "key is a list"),
        (call(name("argparse", "Namespace"), b"N"), "called with arguments"),
        (call(name("argparse", "Namespace")) + b"]b", "expected names and values"),
        (call(name("collections", "defaultdict"), text("a")), "other than a factory"),
        (call(name("collections", "Counter"), b"]"), "other than a dictionary"),
        (call(name("torch", "device"), b"N"), "a device is called"),
        (call(name("torch", "device"), text("cuda"), text("x")), "a device has the number"),
        (call(name("numpy.core.multiarray", "scalar"), FLOAT), "1 arguments"),
    ],
)
def test_values_that_lie(path, code, words):
    assert words in damage(path, b"}", text("a"), code, b"s")


def test_what_is_copied_over_and_over_is_refused(path):
    """A pickle of a few bytes may else ask for the same megabyte again and again."""
    long, encode = text("a" * 10_000) + b"q\0", name("_codecs", "encode") + b"q\1"
    start = b"](" + long + encode + text("latin1") + b"q\2"
    more = b"h\1h\0h\2\x86R" * 10
    assert "many times" in damage(path, start, more, b"e")


def test_a_namespace_is_filled_once(path):
    made = call(name("argparse", "Namespace")) + b"q\0}" + text("a") + b"Nsb"
    assert "sets attributes" in damage(path, b"](", made, b"h\0}", text("b"), b"Nsb", b"e")
