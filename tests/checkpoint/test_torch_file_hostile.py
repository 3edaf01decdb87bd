"""Files of torch that lie, break, or try to run code: one clear error each, and nothing runs."""

import builtins
import functools
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile

import checkpoint.fuzz_torch_file as by_hand
import numpy as np
import pytest
import torch
from checkpoint.fuzz_torch_file import (
    SEEDS,
    archive,
    call,
    group,
    integer,
    integers,
    load_or_refuse,
    name,
    program,
    state,
    storage,
    tensor,
    text,
)
from hypothesis import given
from hypothesis import strategies as st

from npbn.checkpoint import torch_file, torch_pickle
from npbn.checkpoint.torch_file import load_torch
from npbn.errors import CheckpointError

MB = 1 << 20
HUGE = (1 << 63) - 1


@pytest.fixture
def path(request, tmp_path, monkeypatch):
    if getattr(request, "param", "read") == "mapped":
        monkeypatch.setattr(torch_file, "_MAPPED_FROM", 1)
    return tmp_path / "model.pt"


read_and_mapped = pytest.mark.parametrize("path", ["read", "mapped"], indirect=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def refusal(path, content=None):
    """Read the content and return the message of the error; memory and time stay bounded."""
    if content is not None:
        path.write_bytes(content)
    size = path.stat().st_size if path.is_file() else 0
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(CheckpointError) as caught:
            load_torch(path)
        assert tracemalloc.get_traced_memory()[1] < 12 * size + MB  # objects are large
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert message.startswith(f"cannot load {str(path)!r}: ")
    assert len(message) < 600 + len(str(path))
    return message


def damage(path, *operations, **options):
    return refusal(path, archive(program(*operations), **options))


def as_value(path, value):
    return refusal(path, archive(state(value)))


# Pickles that would run code


class Runs:
    """Unpickled by Python, it calls what it is given."""

    def __init__(self, *recipe):
        self.recipe = recipe

    def __reduce__(self):
        return self.recipe


def attribute_chain():
    return Runs(getattr, (Runs(getattr, (Runs(__import__, ("os",)), "path")), "join"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda c: Runs(os.system, (f"touch {c}",)), f"{os.name}.system"),
        (lambda c: Runs(builtins.eval, (f"open({str(c)!r}, 'w')",)), ".eval"),
        (lambda c: Runs(builtins.exec, (f"open({str(c)!r}, 'w')",)), ".exec"),
        (lambda c: Runs(open, (str(c), "w")), "io.open"),
        (lambda c: attribute_chain(), ".getattr"),
        (lambda c: Runs(subprocess.check_output, (["touch", str(c)],)), "subprocess.check_output"),
        (lambda c: functools.partial(open, str(c), "w"), "functools.partial"),
        (lambda c: Runs(map, (os.system, [f"touch {c}"])), ".map"),
        (lambda c: Runs(torch.load, (str(c),)), "torch.serialization.load"),
        (
            lambda c: Runs(torch.storage._load_from_bytes, (pickle.dumps(Runs(open, (c, "w"))),)),
            "torch.storage._load_from_bytes",
        ),
        (lambda c: Runs(torch.hub.load, ("a/b", "c")), "torch.hub.load"),
        (lambda c: random.Random(), "random.Random"),
        (lambda c: Runs(np.load, (str(c),)), "numpy.load"),
        (lambda c: pytest, "pytest"),
    ],
)
def test_nothing_runs(path, make, named, protocol):
    canary = path.parent / "canary"
    try:
        content = pickle.dumps({"w": make(canary)}, protocol, fix_imports=False)
    except (TypeError, pickle.PicklingError):
        content = program(name("builtins", "__import__") + group(text("pytest")) + b"R")
        named = "__import__"
    message = refusal(path, archive(content))
    assert "it asks for '" in message
    assert named in message
    assert "nothing was run" in message
    assert not canary.exists()


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("nt", "system"),
        ("collections", "OrderedDict.__init__"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections.OrderedDict", "__class__"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "storage._load_from_bytes"),
        ("torch.storage", "_load_from_bytes"),
        ("npbn.checkpoint.torch_file", "load_torch"),
        ("", ""),
        ("collections ", "OrderedDict"),
        ("é", "\u0661"),
    ],
)
def test_names_are_looked_up_whole(path, module, attribute):
    for named in (name(module, attribute), text(module) + text(attribute) + b"\x93"):
        assert f"'{module}.{attribute}'" in damage(path, named + b")R")


def test_a_module_is_told_from_a_function(path):
    advice = "torch.save(net.state_dict(), path)"
    assert advice in damage(path, name("__main__", "Net") + b")\x81")
    assert advice in damage(path, name("torch.nn.modules.linear", "Linear"))
    assert advice not in damage(path, name("posix", "system"))
    assert advice not in damage(path, name("subprocess", "Popen"))
    assert advice not in damage(path, name("__builtin__", "Exception"))


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        (name("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
        (name("collections", "OrderedDict") + b")}\x92", "NEWOBJ_EX"),
        (b"(" + name("collections", "OrderedDict") + b"o", "OBJ"),
        (b"(i" + b"os\nsystem\n", "INST"),
        (b"\x82\1", "EXT1"),
        (b"\x83\1\0", "EXT2"),
        (b"\x84\1\0\0\0", "EXT4"),
        (b"P0\n", "PERSID"),
        (b"I1\n", "INT"),
        (b"L1L\n", "LONG"),
        (b"S'a'\n", "STRING"),
        (b"Va\n", "UNICODE"),
        (b"F1\n", "FLOAT"),
        (b"\x8b\xff\xff\xff\x7f", "LONG4"),
        (b"N0", "POP"),
        (b"N2", "DUP"),
        (b"(1", "POP_MARK"),
        (b"\x8f", "EMPTY_SET"),
        (b"(\x91", "FROZENSET"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f", "BYTEARRAY8"),
        (b"\x97", "NEXT_BUFFER"),
        (b"\x80\4", "PROTO"),
        (b"\xff", "byte ff"),
    ],
)
def test_operations_that_are_not_needed(path, operation, named):
    assert named in damage(path, operation)


@pytest.mark.parametrize("attribute", ["__class__", "__dict__", "_metadata2", "_metadata"])
def test_no_attribute_is_set(path, attribute):
    made = name("collections", "OrderedDict") + b")R"
    pairs = text(attribute) + text("evil") + text("other") + b"N"
    assert "sets attributes" in damage(path, made, b"}(", pairs, b"ub")
    for target in (b"}", b"]", b")", b"N", name("torch", "Size"), tensor(), storage()):
        content = archive(program(target, b"}", text(attribute), b"Nsb"))
        if attribute == "_metadata" and target == b"}":
            path.write_bytes(content)
            assert load_torch(path) == {}
        else:
            assert "sets attributes" in refusal(path, content) or "to fill" in refusal(path)
    assert "sets attributes of a dictionary (tuple)" in damage(path, made, b"}}\x86b")
    for nothing in (b"N", b")", b"]", b"K\1", text(""), group(text("_metadata"))):
        assert "sets attributes" in damage(path, made, nothing, b"b")


# Programs that are wrong


@pytest.mark.parametrize(
    "operations",
    [b"", b"a", b"Na", b"e", b"s", b"NNs", b"u", b"}(Nu", b"](aN", b"R", b"NR", b"b", b"Q",
     b"t", b"\x85", b"NN\x87", b"q\0", b"Nq\1", b"Nq\0q\0", b"h\0", b"Nq\0h\1", b"j\0\0\0\0",
     b"(", b"NN", b"N(", b"K", b"J\0\0\0", b"G\0", b"X\5\0\0\0abc", b"X\xff\xff\xff\xffabc",
     b"\x8d" + b"\xff" * 8 + b"a", b"\x8e" + b"\xff" * 8 + b"a", b"B\xff\xff\xff\x7fa", b"C\5",
     b"X\1\0\0\0\xff", b"ctorch\nSize", b"ctorch", b"c", b"c\xff\n\n", b"\x8a\xff\1",
     b"\x95" + b"\xff" * 8, b"r\xff\xff\xff\xff", b"Nr\xff\xff\xff\x7f", b"NN\x93", b"(NNe",
     b"}(N(u", b"\x93", b")(R", b".", b"N.", b"N.N", b"]]N(aea"],
)  # fmt: skip
def test_programs_that_make_no_sense(path, operations):
    assert "its pickle is damaged at byte" in damage(path, operations)


@pytest.mark.parametrize("start", [b"", b"\x80", b"\x80\1", b"\x80\6", b"}.", b"(dp0\n."])
def test_other_protocols(path, start):
    assert "its pickle begins with" in refusal(path, archive(start))


@pytest.mark.parametrize(
    "function",
    [b"N", b"}", text("eval"), storage(), tensor(), name("torch", "HalfStorage")],
)
def test_only_functions_are_called(path, function):
    assert "is no function" in damage(path, function, b")R")


@pytest.mark.parametrize("arguments", [b"N", b"]", b"}", text("ab"), storage()])
def test_arguments_are_a_tuple(path, arguments):
    assert "not a tuple" in damage(path, name("collections", "OrderedDict"), arguments, b"R")


@pytest.mark.parametrize(
    "key", [b")", b"]", b"}", b"C\1a", tensor(), storage(), name("torch", "Size")]
)
def test_keys_are_strings_or_numbers(path, key):
    assert "a dictionary's key is" in damage(path, b"}" + key + b"Ns")


# Programs that would take memory or time


def test_nested_too_deeply(path):
    for opened, closed in ((b"]" * 999, b"a" * 998), (b")" + b"\x85" * 999, b"")):
        assert "nested over 100 deep" in damage(path, opened, closed)
    path.write_bytes(archive(program(b"]" * 100, b"a" * 99)))
    load_torch(path)


def test_a_list_that_holds_itself(path):
    assert "holds itself" in damage(path, b"]q\0h\0a")
    assert "holds itself" in damage(path, b"}q\0", text("a"), b"](h\0\x85es")


def test_a_billion_laughs(path):
    assert "unfold to over" in damage(path, b"]", b"".join(
        bytes([*b"q", i, *b"h", i]) + b"\x86" for i in range(90)))  # fmt: skip
    laughs = b")q\0" + b"".join(
        b"h" + bytes([i]) * 1 + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    assert "key is a tuple" in damage(path, b"}", laughs, b"Ns")


def numbered(keys):
    return b"".join(integer(key) + b"N" for key in keys)


def test_keys_that_collide(path, monkeypatch):
    modulus = sys.hash_info.modulus  # all its multiples have the same hash
    for key in (modulus, -modulus, 1 << 60, -(1 << 60)):
        assert "beyond 60 bits" in damage(path, b"}", numbered([key]) + b"s")
    monkeypatch.setattr(torch_pickle, "_MOST_NUMBER_KEYS", 100)  # below, they still can
    assert "over 100 keys are numbers" in damage(path, b"}(", numbered(range(101)), b"u")
    assert "over 100 keys are numbers" in damage(path, (b"}(" + numbered(range(51)) + b"u") * 2)
    path.write_bytes(archive(program(b"}(", numbered([*range(99), (1 << 60) - 1]), b"u")))
    assert len(load_torch(path)) == 100


def test_keys_come_once(path):
    for one, another in ((text("a"), text("a")), (b"K\1", b"\x88"), (b"N", b"N")):
        assert "twice" in damage(path, b"}(", one, b"N", another, b"Nu")
    assert "'a' twice" in damage(path, b"}", text("a"), b"Ns", text("a"), b"Ns")


def test_a_pickle_of_many_small_objects(path, monkeypatch):
    monkeypatch.setattr(torch_file, "_LONGEST_PICKLE", 1000)
    assert "its pickle has 1003 bytes" in damage(path, b"}" * 1000)


def test_messages_stay_short(path):
    long = "a" * 100_000
    assert "..." in damage(path, b"}(", text(long), b"N", text(long), b"Nu")
    for part in ("kind", "key", "device", "tag"):
        damage(path, storage(**{part: long}))
    damage(path, name(long, long))
    damage(path, tensor(offset=integer(1 << 2000)))
    damage(path, tensor(size=(HUGE,) * 64, stride=(HUGE,) * 64))
    damage(path, b"}" + integer(1 << 2000) + b"N", b"s", b"}" + integer(1 << 2000) + b"Ns")


# Storages and tensors that lie


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
    assert "has 16 bytes, which are not" in as_value(path, tensor(storage(number=number)))


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


def test_the_stride_of_one_element_may_be_anything(path):
    path.write_bytes(archive(state(tensor(size=(1, 4, 1), stride=(HUGE, 1, HUGE)))))
    assert load_torch(path)["0"].tolist() == [[[1], [2], [3], [4]]]


def test_functions_of_wrong_arguments(path):
    utils = functools.partial(name, "torch._utils")
    for function in (utils("_rebuild_tensor_v2"), utils("_rebuild_tensor_v3"),
                     utils("_rebuild_parameter"), name("torch", "Size")):  # fmt: skip
        for arguments in ((), (b"N",), (b"N",) * 3, (b"N",) * 7, (b"N",) * 20):
            as_value(path, call(function, *arguments))
    as_value(path, call(utils("_rebuild_parameter"), tensor(), b"N", b"}"))
    as_value(path, call(utils("_rebuild_parameter"), tensor(), b"\x88", b"}K\1Ns"))
    as_value(path, call(name("torch", "Size"), integers(1, -1)))
    assert "OrderedDict is called" in as_value(path, call(name("collections", "OrderedDict"), b"]"))


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
        assert "over and over" in as_value(path, tensor(size=size, stride=(0,) * len(size)))
    once = tensor(size=(1 << 13, 1 << 11), stride=(0, 0))
    assert "over and over" in refusal(path, archive(state(*[once] * 5)))


@read_and_mapped
def test_a_storage_is_converted_once(path):
    raw = storage("UntypedStorage", module="torch.storage", number=16)
    views = [tensor(raw, version=3, size=(1,), more=[name("torch", dtype)])
             for dtype in ("int16", "int32", "int64", "bfloat16")]  # fmt: skip
    path.write_bytes(archive(state(*views)))
    assert [load_torch(path)[str(i)].itemsize for i in range(4)] == [2, 4, 8, 4]
    assert "several dtypes" in refusal(path, archive(state(*views), order=b"big"))


# The container


def real_file(path):
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}, path)
    return path.read_bytes()


@read_and_mapped
def test_cut_short_anywhere(path):
    content = real_file(path)
    for length in {
        *range(0, 100),
        *range(100, len(content), 97),
        *range(len(content) - 90, len(content)),
    }:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            load_torch(path)
        assert ("the file is empty" if not length else "") in str(caught.value)
    for length in (4, 100, 1000, len(content) - 1):
        assert "cut short" in refusal(path, content[:length])


@read_and_mapped
def test_not_a_file_of_torch(path):
    for content in (b"hello", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\1\0", bytes(1000), b"\x80\4N."):
        assert "torch.save writes a zip file" in refusal(path, content)
    assert "'a.npy'" in refusal(path, zip_of({"a.npy": b"", "b.npy": b""}))
    assert "not torch.save's" in refusal(path, zip_of({}))
    assert "not torch.save's" in refusal(path, zip_of({"data.pkl": b""}))
    assert "not torch.save's" in refusal(path, zip_of({"a/data.pkl": b"", "b/data/0": b""}))
    assert "not torch.save's" in refusal(path, zip_of({"a/b/data.pkl": b""}))
    assert "TorchScript" in refusal(path, zip_of({"a/data.pkl": b"", "a/constants.pkl": b""}))
    assert "TorchScript" in refusal(path, zip_of({"a/data.pkl": b"", "a/code/b.py": b""}))


def zip_of(records):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for record, content in records.items():
            writer.writestr(record, content)
    return file.getvalue()


def test_paths_that_are_no_files(path):
    assert "No such file" in refusal(path)
    assert "not a regular file" in refusal(path.parent)
    with pytest.raises(CheckpointError, match="null byte"):
        load_torch(f"{path}\0")
    with pytest.raises(TypeError):
        load_torch(3)
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        assert "not a regular file" in refusal(path)  # and no waiting for a writer


def test_the_operating_system_refuses(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    real_file(path)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match=r"Permission denied$"):
        load_torch(path)


@pytest.mark.parametrize(
    "evil",
    ["archive/../a", "/archive/a", "archive//a", "archive/./a", "archive\\a", "..", "archive/a\1"],
)
def test_record_names_that_lead_elsewhere(path, evil):
    content = archive(state(tensor()), {"0": by_hand.FLOATS, "X" * (len(evil) - 13): b""})
    plain = b"archive/data/" + b"X" * (len(evil) - 13)
    if len(evil) < 14:
        plain = b"archive/data/1"
        content, evil = archive(state(tensor())), evil.ljust(14, "/")
    evil = evil.encode().replace(b"\1", b"\0")
    assert "not one that torch.save gives" in refusal(path, content.replace(plain, evil))
    assert "not UTF-8" in refusal(path, content.replace(plain, b"\xff" * len(plain)))


def test_two_records_of_one_name(path):
    content = archive(state(tensor()))
    twice = content.replace(b"archive/data/1", b"archive/data/0")
    assert "two records have the name 'archive/data/0'" in refusal(path, twice)


def directory_entry(content, record):
    """Return where the directory's entry of a record begins."""
    return content.rindex(record) - 46


def patched(content, at, layout, value):
    content = bytearray(content)
    struct.pack_into(layout, content, at, value)
    return bytes(content)


@read_and_mapped
def test_a_directory_that_lies(path):
    content = archive(state(tensor()))
    entry = directory_entry(content, b"archive/data/1")
    first = content.index(b"archive/data/1") - 30
    end = len(content) - 22
    other = struct.unpack_from("<L", content, directory_entry(content, b"archive/data/0") + 42)[0]
    for at, layout, value, words in [
        (entry + 8, "<H", 1, "is encrypted"),
        (entry + 10, "<H", 8, "is compressed"),
        (entry + 10, "<H", 99, "is compressed"),
        (entry + 20, "<L", 15, "is compressed"),
        (entry + 24, "<L", 1 << 31, "is compressed"),
        (entry + 24, "<L", 0xFFFFFFFF, "lacks its 64-bit size"),
        (entry + 34, "<H", 1, "another part"),
        (entry + 42, "<L", other, "is not at byte"),
        (entry + 42, "<L", first + 1, "is not at byte"),
        (entry + 42, "<L", len(content) - 10, "cut short"),
        (entry + 42, "<L", 0xFFFFFFFE, "cut short"),
        (entry + 28, "<H", 0xFFFF, "no directory entry"),
        (entry + 30, "<H", 0xFFFF, "no directory entry"),
        (entry, "<L", 0, "no directory entry"),
        (first, "<L", 0, "is not at byte"),
        (first + 26, "<H", 0xFFFF, "is not at byte"),
        (first + 28, "<H", 0xFFFF, "overlap"),
        (end + 4, "<H", 1, "several parts"),
        (end + 6, "<H", 1, "several parts"),
        (end + 8, "<H", 9, "several parts"),
        (end + 12, "<L", 0, "should fill"),
        (end + 16, "<L", 0, "should fill"),
        (end + 16, "<L", 0xFFFFFFFF, "should fill"),
        (end + 20, "<H", 1, "directory of the zip file is gone"),
    ]:
        assert words in refusal(path, patched(content, at, layout, value)), (at, words)
    for count in (0, 4, 6, 0xFFFF):
        lie = patched(patched(content, end + 8, "<H", count), end + 10, "<H", count)
        assert "directory promises" in refusal(path, lie)
    path.write_bytes(content + b"comment")
    assert "gone" in refusal(path)
    path.write_bytes(patched(content, end + 20, "<H", 7) + b"comment")
    assert load_torch(path)["0"].size == 4


@read_and_mapped
def test_records_that_overlap(path):
    """As in a small file that passes for a large one."""
    content = archive(state(tensor()))
    entry = directory_entry(content, b"archive/data/0")
    for size in (17, 100, 400, 1 << 31):
        longer = patched(patched(content, entry + 20, "<L", size), entry + 24, "<L", size)
        assert "overlap" in refusal(path, longer)


@read_and_mapped
def test_64_bit_directories(path):
    content = archive(state(tensor()))
    at = directory_entry(content, b"archive/data/0")
    first = struct.unpack_from("<L", content, at + 42)[0]
    extra = struct.pack("<2H2s2H3Q", 7, 2, b"ab", 1, 24, 16, 16, first)
    long = patched(content, at + 30, "<H", len(extra))
    for place in (20, 24, 42):
        long = patched(long, at + place, "<L", 0xFFFFFFFF)
    long = long[: at + 60] + extra + long[at + 60 :]
    end = len(long) - 22
    size = struct.unpack_from("<L", long, end + 12)[0]
    long = patched(long, end + 12, "<L", size + len(extra))
    path.write_bytes(long)
    assert torch.load(path)["0"].tolist() == load_torch(path)["0"].tolist() == [1, 2, 3, 4]
    for place in range(3):
        for lie in (0, 15, 1 << 40, (1 << 64) - 1):
            refusal(path, patched(long, at + 60 + 10 + 8 * place, "<Q", lie))
    refusal(path, patched(long, at + 60 + 8, "<H", 16))  # shorter than what is missing

    real = real_file(path)  # torch adds a 64-bit end to every file
    end = real.rindex(b"PK\6\6")
    for place in range(24, 76):
        for lie in (0, 0xFF):
            load_or_refuse(path, patched(real, end + place, "B", lie))
    assert "64-bit directory" in refusal(path, patched(real, end, "<L", 0))
    assert "64-bit directory" in refusal(path, patched(real, end + 56 + 8, "<Q", (1 << 64) - 1))
    assert "should fill" in refusal(path, patched(real, end + 40, "<Q", (1 << 64) - 1))


@read_and_mapped
def test_compressed_records_are_not_unpacked(path):
    content = archive(state(tensor()), {"0": bytes(16 * MB)}, compression=zipfile.ZIP_DEFLATED)
    assert len(content) < MB
    assert "is compressed" in refusal(path, content)


def test_checksums(tmp_path):
    content = archive(state(tensor()))
    for damaged in (by_hand.FLOATS, b"archive/data.pkl\x80"):
        at = content.index(damaged) + len(damaged) - 1
        message = refusal(tmp_path / "f", patched(content, at, "B", content[at] ^ 1))
        assert "its checksum is wrong" in message


def test_byte_orders(path):
    for order in (b"", b"middle", b"little\n", b"l" * 9999):
        assert "'byteorder' says neither" in refusal(path, archive(state(tensor()), order=order))


# Fuzzing


@given(data=st.data())
def test_fuzz_changed_files(folder, data):
    """Flip, cut, insert and splice the bytes of a file."""
    content = bytearray(archive(data.draw(st.sampled_from(SEEDS))))
    mutate(data, content)
    load_or_refuse(folder / "file", bytes(content))


@given(data=st.data())
def test_fuzz_changed_pickles(folder, data):
    """The same within a file that is sound."""
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    mutate(data, content)
    load_or_refuse(folder / "pickle", archive(bytes(content)))


def mutate(data, content):
    for _ in range(data.draw(st.integers(1, 4))):
        start, stop = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "splice"])):
            case "flip" if start < len(content):
                content[start] = data.draw(st.integers(0, 255))
            case "cut":
                del content[start : min(stop, start + 40)]
            case "insert":
                content[start:start] = data.draw(st.binary(max_size=9))
            case "splice":
                content[start:start] = content[stop : stop + 60]


parts = st.sampled_from(
    [b"N", b"}", b"]", b")", b"(", b"t", b"u", b"e", b"a", b"s", b"b", b"R", b"Q", b"\x94", b"h\0",
     b"h\1", b"h\2", b"\x85", b"\x86", b"\x87", b"\x88", b"K\4", b"\x93", text("a"), text("0"),
     text("_metadata"), text("storage"), text("cpu"), storage(), tensor(), integers(4), integers(),
     name("collections", "OrderedDict"), name("torch", "Size"), name("torch", "FloatStorage"),
     name("torch", "float32"), name("torch._utils", "_rebuild_tensor_v2"), name("os", "system"),
     name("torch._utils", "_rebuild_tensor_v3"), name("torch._utils", "_rebuild_parameter")]
)  # fmt: skip


@given(operations=st.lists(parts, max_size=30))
def test_fuzz_random_programs(folder, operations):
    load_or_refuse(folder / "program", archive(program(*operations)))


numbers = st.one_of(st.integers(-1, 9), st.integers(-(1 << 66), 1 << 66), st.just(HUGE))


@given(
    offset=numbers, size=st.lists(numbers, max_size=4), stride=st.lists(numbers, max_size=4),
    kind=st.sampled_from(["Float", "BFloat16", "Double", "Byte", "ComplexDouble"]),
    order=st.sampled_from([b"little", b"big"]),
)  # fmt: skip
def test_fuzz_tensors(folder, offset, size, stride, kind, order):
    """Whatever is accepted can be read to the last element, and lies in the storage."""
    itemsize = {"Float": 4, "BFloat16": 2, "Double": 8, "Byte": 1, "ComplexDouble": 16}[kind]
    of = storage(f"{kind}Storage", number=64 // itemsize)
    content = archive(state(tensor(of, offset, tuple(size), tuple(stride))),
                      {"0": bytes(range(64))}, order=order)  # fmt: skip
    loaded = load_or_refuse(folder / "tensor", content)
    if loaded is not None and loaded["0"].size < 1 << 20:
        assert loaded["0"].shape == tuple(size)
        loaded["0"].tobytes()
