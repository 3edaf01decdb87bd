"""Pickles that make no sense, or would take memory or time, are refused."""

import sys

import pytest
from checkpoint.fuzz_torch_file import archive, integer, name, program, storage, tensor, text
from checkpoint.hostile import HUGE, damage, refusal

from npbn.checkpoint import torch_file, torch_pickle
from npbn.checkpoint.torch_file import load_torch


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


def test_nested_too_deeply(path):
    for opened, closed in ((b"]" * 999, b"a" * 998), (b")" + b"\x85" * 999, b"")):
        assert "nested over 100 deep" in damage(path, opened, closed)
    path.write_bytes(archive(program(b"]" * 100, b"a" * 99)))
    load_torch(path)


def test_a_list_that_holds_itself(path):
    assert "contains itself" in damage(path, b"]q\0h\0a")
    assert "contains itself" in damage(path, b"}q\0", text("a"), b"](h\0\x85es")


def test_a_billion_laughs(path):
    assert "contain over" in damage(path, b"]", b"".join(
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
