"""Pickles that ask for code or other operations are refused by name, and nothing runs."""

import builtins
import functools
import os
import pickle
import random
import subprocess

import numpy as np
import pytest
import torch
from checkpoint.fuzz_torch_file import archive, group, name, program, storage, tensor, text
from checkpoint.hostile import damage, refusal

from npbn.checkpoint.torch_file import load_torch


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
    advice = "torch.save(net.state_dict(), new_path)"
    assert advice in damage(path, name("__main__", "Net") + b")\x81")
    assert advice in damage(path, name("torch.nn.modules.linear", "Linear"))
    assert advice not in damage(path, name("posix", "system"))
    assert advice not in damage(path, name("subprocess", "Popen"))
    assert advice not in damage(path, name("__builtin__", "Exception"))


@pytest.mark.parametrize(
    ("operation", "named"),
    [
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
            assert "sets attributes" in refusal(path, content) or "on the stack" in refusal(path)
    assert "sets attributes of a dictionary (tuple)" in damage(path, made, b"}}\x86b")
    for nothing in (b"N", b")", b"]", b"K\1", text(""), group(text("_metadata"))):
        assert "sets attributes" in damage(path, made, nothing, b"b")
