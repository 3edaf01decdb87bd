"""Storages and tensors that lie about their bytes are refused."""

import functools
import tracemalloc

import pytest
from checkpoint.fuzz_torch_file import (
    archive,
    call,
    group,
    integers,
    name,
    state,
    storage,
    tensor,
    text,
)
from checkpoint.hostile import HUGE, MB, as_value, damage, read_and_mapped, refusal

from npbn.checkpoint import torch_tensors
from npbn.checkpoint.torch_file import load_torch


@pytest.mark.parametrize(
    "persistent_id",
    [b"N", b"K\1", text("0"), b")", b"]", b"}", b"NN\x86", tensor(), name("torch", "FloatStorage"),
     group(text("storage"), text("FloatStorage"), text("0"), text("cpu"), b"K\4"),
     group(text("storage"), name("torch", "float32"), text("0"), text("cpu"), b"K\4"),
     group(text("storage"), name("torch", "Size"), text("0"), text("cpu"), b"K\4"),
     group(text("storage"), name("torch", "FloatStorage"), b"K\0", text("cpu"), b"K\4"),
     group(text("storage"), name("torch", "FloatStorage"), text("0"), b"N", b"K\4"),
     group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"\x88"),
     group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), text("4")),
     group(text("module"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"K\4"),
     group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"K\4K\4")],
)  # fmt: skip
def test_persistent_ids_of_another_kind(path, persistent_id):
    assert "a persistent id is" in damage(path, persistent_id, b"Q")


@pytest.mark.parametrize("key", ["2", "../0", "", "0/", "../data.pkl", "00", "a" * 9999])
def test_storages_that_are_not_there(path, key):
    assert "lacks the record of a storage" in as_value(path, tensor(storage(key=key)))


@read_and_mapped
@pytest.mark.parametrize("number", [0, 3, 5, -1, HUGE, 1 << 64, 1 << 2000])
def test_storages_of_another_length(path, number):
    assert "has 16 bytes, but" in as_value(path, tensor(storage(number=number)))


def test_storages_of_another_kind(path):
    for kind in ("QInt8Storage", "ComplexHalfStorage", "Storage", "FloatTensor"):
        assert f"'torch.{kind}'" in as_value(path, tensor(storage(kind)))
    assert "meta device" in as_value(path, tensor(storage(device="meta")))
    assert "_Storage as a value" in as_value(path, storage())
    assert "_Storage and no dtype" in as_value(
        path, tensor(storage("UntypedStorage", module="torch.storage", number=16))
    )


@read_and_mapped
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (4,), (1,)),
        (0, (5,), (1,)),
        (0, (2,), (4,)),
        (4, (), ()),
        (3, (2, 1), (1, 1)),
        (0, (2, 3), (2, 1)),
        (HUGE, (1,), (1,)),
        (0, (HUGE,), (1,)),
        (0, (2,), (HUGE,)),
        (HUGE, (HUGE,), (HUGE,)),
        (0, (1 << 32, 1 << 32), (1, 1)),  # overflows 64 bits to 0 elements
        (0, (1 << 62, 5), (4, 1)),
        (1 << 62, (1,), (1,)),  # times 4 bytes overflows to 0
        (0, (5,), (1 << 62,)),
    ],
)
def test_tensors_beyond_their_storage(path, offset, size, stride):
    assert "exceeds its storage" in as_value(path, tensor(None, offset, size, stride))


@pytest.mark.parametrize(
    "arguments",
    [
        {"offset": -1},
        {"offset": b"G" + bytes(8)},
        {"offset": b"\x88"},
        {"offset": b"N"},
        {"offset": 1 << 63},
        {"size": (-4,)},
        {"size": (4, -1), "stride": (1, 1)},
        {"stride": (-1,)},
        {"size": (1 << 64,)},
        {"size": b"]K\4a"},
        {"size": b"K\4"},
        {"size": group(b"\x88")},
        {"size": group(text("4"))},
        {"size": (2, 2)},
        {"stride": (1, 1)},
        {"size": (1,) * 65, "stride": (1,) * 65},
        {"size": (HUGE, HUGE, 0), "stride": (0, 0, 0)},
        {"of": b"N"},
        {"of": group(text("0"), text("1"))},
        {"grad": b"N"},
        {"grad": b"K\1"},
        {"hooks": b"N"},
        {"hooks": b"}K\1Ns"},
        {"hooks": b"]"},
        {"more": [b"N"]},
        {"more": [b"}" + text("conj") + b"\x88s"]},
        {"more": [b"}", b"}"]},
        {"version": 3},
        {"version": 3, "more": [b"N"]},
        {"version": 3, "more": [name("torch", "FloatStorage")]},
        {"version": 3, "more": [name("torch", "float32")]},
        {"version": 3, "more": [name("torch", "float32"), b"}", b"}"]},
    ],
)
def test_tensors_of_wrong_arguments(path, arguments):
    message = as_value(path, tensor(**arguments))
    assert "tensor" in message


def test_a_tensor_may_have_64_dimensions(path):
    path.write_bytes(archive(state(tensor(size=(1,) * 63 + (4,), stride=(1,) * 64))))
    assert load_torch(path)["0"].shape == (1,) * 63 + (4,)


def test_the_stride_of_one_element_may_be_anything(path):
    path.write_bytes(archive(state(tensor(size=(1, 4, 1), stride=(HUGE, 1, HUGE)))))
    assert load_torch(path)["0"].tolist() == [[[1], [2], [3], [4]]]


def test_functions_of_wrong_arguments(path):
    utils = functools.partial(name, "torch._utils")
    for function in (utils("_rebuild_tensor_v2"), utils("_rebuild_tensor_v3"),
                     utils("_rebuild_parameter"), name("torch", "Size")):  # fmt: skip
        for arguments in ((), (b"N",), (b"N",) * 3, (b"N",) * 7, (b"N",) * 20):
            as_value(path, call(function, *arguments))
    for version, numbers in ((2, (5, 8)), (3, (6, 9))):
        function = utils(f"_rebuild_tensor_v{version}")
        for number in numbers:
            message = as_value(path, call(function, *[b"N"] * number))
            assert f"_rebuild_tensor_v{version} is called with {number} arguments" in message
    as_value(path, call(utils("_rebuild_parameter"), tensor(), b"N", b"}"))
    as_value(path, call(utils("_rebuild_parameter"), tensor(), b"\x88", b"}K\1Ns"))
    as_value(path, call(name("torch", "Size"), integers(1, -1)))
    assert "OrderedDict is called" in as_value(path, call(name("collections", "OrderedDict"), b"N"))


def test_booleans_of_other_bytes(path):
    bools = tensor(storage("BoolStorage", number=3), size=(3,))
    path.write_bytes(archive(state(bools), {"0": b"\0\1\1"}))
    assert load_torch(path)["0"].tolist() == [False, True, True]
    assert "booleans that are not" in refusal(path, archive(state(bools), {"0": b"\0\1\2"}))


@read_and_mapped
def test_expanded_tensors_cost_nothing_until_they_are_absurd(path):
    path.write_bytes(archive(state(tensor(size=(1 << 13, 1 << 13), stride=(0, 0)))))
    tracemalloc.start()
    array = load_torch(path)["0"]
    assert tracemalloc.get_traced_memory()[1] < MB
    tracemalloc.stop()
    assert (array.shape, array.strides) == ((8192, 8192), (0, 0))
    for size in ((1 << 28,), (1 << 40, 1 << 10), (HUGE,), (HUGE,) * 64):
        assert "many times" in as_value(path, tensor(size=size, stride=(0,) * len(size)))
    once = tensor(size=(1 << 13, 1 << 11), stride=(0, 0))
    assert "many times" in refusal(path, archive(state(*[once] * 5)))


def test_how_much_tensors_may_take_copied_out_is_exact(path, monkeypatch):
    content = archive(state(*[tensor(size=(1000,), stride=(0,))] * 3))
    path.write_bytes(content)
    taken = 3 * 4 * 1000 - 8 * len(content)  # beyond eight times the file
    monkeypatch.setattr(torch_tensors, "_EXPANDED", taken)
    assert len(load_torch(path)) == 3
    monkeypatch.setattr(torch_tensors, "_EXPANDED", taken - 1)
    assert "many times" in refusal(path)


@read_and_mapped
def test_a_storage_is_converted_once(path):
    raw = storage("UntypedStorage", module="torch.storage", number=16)
    views = [tensor(raw, version=3, size=(1,), more=[name("torch", dtype)])
             for dtype in ("int16", "int32", "int64", "bfloat16")]  # fmt: skip
    path.write_bytes(archive(state(*views)))
    assert [load_torch(path)[str(i)].itemsize for i in range(4)] == [2, 4, 8, 4]
    assert "several dtypes" in refusal(path, archive(state(*views), order=b"big"))
