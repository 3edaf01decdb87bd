"""Files of torch with drawn damage: a result or one clear error, whatever is in them."""

import pytest
from checkpoint.fuzz_torch_file import (
    SEEDS,
    archive,
    integers,
    load_or_refuse,
    name,
    program,
    state,
    storage,
    tensor,
    text,
)
from checkpoint.hostile import HUGE
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


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
