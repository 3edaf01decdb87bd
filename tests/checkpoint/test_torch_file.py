"""Files that torch wrote, read without torch: bit for bit what torch.load reads, and no copy."""

import collections
import io
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint.fuzz_torch_file import archive, state, storage, tensor
from processes import run_python

from npbn.checkpoint import torch_file
from npbn.checkpoint.torch_file import load_torch
from npbn.errors import CheckpointError

MB = 1 << 20
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64", "bfloat16", "complex64", "complex128"]


@pytest.fixture(params=["read", "mapped"])
def path(request, tmp_path, monkeypatch):
    if request.param == "mapped":
        monkeypatch.setattr(torch_file, "_MAPPED_FROM", 1)
    return tmp_path / "model.pt"


def draw(dtype, *shape):
    """Return a tensor of random bits, NaNs and all."""
    itemsize = getattr(torch, dtype).itemsize
    data = np.random.default_rng(0).integers(0, 256, (*shape, itemsize), np.uint8)
    if dtype == "bool":
        return torch.from_numpy(data[..., 0] > 99)
    return torch.from_numpy(data).view(getattr(torch, dtype))[..., 0]


def assert_same(found, expected):
    """Compare with what torch.load returned: structure, types, shapes, strides, bits."""
    if isinstance(expected, torch.Tensor):
        if expected.dtype == torch.bfloat16:
            expected = expected.float()
        expected = expected.detach().numpy()
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.dtype.isnative
        assert found.flags.writeable
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert type(found) is dict
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is (list if isinstance(expected, list) else tuple)
        assert len(found) == len(expected)
        for one, another in zip(found, expected, strict=True):
            assert_same(one, another)
    else:
        assert type(found) is type(expected)
        assert found == expected


def assert_read_as_torch_does(path, value=None, **options):
    if value is not None:
        torch.save(value, path, **options)
    found = load_torch(path)
    assert_same(found, torch.load(path, weights_only=False))  # which knows all protocols
    return found


def refusal(path, value=None):
    if value is not None:
        torch.save(value, path)
    with pytest.raises(CheckpointError) as caught:
        load_torch(path)
    assert f"cannot load {str(path)!r}: " in str(caught.value)
    return str(caught.value)


# What is read


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype(path, protocol):
    value = {dtype: draw(dtype, 3, 5) for dtype in [*FLOATS, *INTEGERS, "bool"]}
    assert_read_as_torch_does(path, value, pickle_protocol=protocol)


def test_every_bfloat16_is_widened_to_the_float32_it_is(path):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    found = assert_read_as_torch_does(path, {"w": every, "t": every.view(256, 256).T})
    assert found["w"].dtype == np.float32
    assert np.shares_memory(found["w"], found["t"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint16", "bool", "complex128"])
def test_views(path, dtype):
    base = draw(dtype, 4, 5, 6)
    value = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "offset": base[1:, 2:, 3:],
        "stepped": base[::2, ::3, ::4],
        "diagonal": base[0].diagonal(),
        "expanded": base[:1, :1].expand(7, 3, 6),
        "number": base[2, 3, 4],
        "empty": base[:, 5:],
        "empty at the end": base[4:],
        "empty of its own": torch.zeros(0, 3, dtype=base.dtype),
        "one": base.as_strided((1, 2), (10**15, 1), 3),
    }
    found = assert_read_as_torch_does(path, value)
    for key, array in found.items():
        strides = [step // array.itemsize for step in array.strides]
        assert array.size < 2 or strides == list(value[key].stride()) or key == "one"
        assert np.shares_memory(array, found["base"]) == (array.size > 0)


def test_tensors_of_one_storage_share_it_and_others_do_not(path):
    a, b = torch.zeros(4), torch.zeros(4)
    found = assert_read_as_torch_does(path, [a, a[1:], b, torch.nn.Parameter(a)])
    found[0][2] = 5
    assert found[1].tolist() == [0, 5, 0]
    assert found[3].tolist() == [0, 0, 5, 0]
    assert found[2].tolist() == [0, 0, 0, 0]


def test_a_bare_tensor(path):
    assert_read_as_torch_does(path, torch.arange(6).view(2, 3))


def test_a_network_its_optimizer_and_plain_data(path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    value = {
        "model": net.state_dict(),
        "parameters": dict(net.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "numbers": [0, 255, 256, 65536, -1, 1 << 70, 1.5, float("inf"), True, False, None],
        "size": torch.Size([2, 3]),
        "text": "é∑😀" * 100,
        "order": collections.OrderedDict(b=1, a=()),
        "nested": [[(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], {1: "a", 2.5: "b", None: "c"}],
    }
    found = assert_read_as_torch_does(path, value)
    assert "_metadata" in vars(net.state_dict())
    assert not hasattr(found["model"], "_metadata")
    torch.save({"bytes": b"abc" * 100}, path, pickle_protocol=4)
    assert load_torch(path) == {"bytes": b"abc" * 100}


def test_many_entries_need_long_memo_numbers(path):
    assert_read_as_torch_does(path, {f"weight.{i}": torch.full((2,), i) for i in range(300)})


def test_big_endian_files(path):
    torch.save({"w": draw("float32", 6), "b": draw("bool", 3), "i": draw("uint64", 2)}, path)
    with zipfile.ZipFile(path) as reader:
        pickle = reader.read("model/data.pkl")
        storages = {str(i): reader.read(f"model/data/{i}") for i in range(3)}
    storages["0"] = np.frombuffer(storages["0"], "<f4").byteswap().tobytes()
    storages["2"] = np.frombuffer(storages["2"], "<u8").byteswap().tobytes()
    expected = torch.load(path, weights_only=True)
    path.write_bytes(archive(pickle, storages, order=b"big"))
    assert_same(load_torch(path), expected)
    path.write_bytes(archive(state(tensor(storage("BFloat16Storage", number=1), size=(1,))),
                             {"0": b"\x3f\x80"}, order=b"big"))  # fmt: skip
    assert load_torch(path)["0"].tolist() == [1]


def test_files_without_byte_order_or_checksums(path):
    path.write_bytes(archive(state(tensor()), order=None))
    assert load_torch(path)["0"].tolist() == [1, 2, 3, 4]
    torch.serialization.set_crc32_options(False)
    try:
        assert_read_as_torch_does(path, {"w": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("file", ["модель.pt", "no suffix", "a.b.c"])
def test_any_file_name(tmp_path, file):
    assert_read_as_torch_does(tmp_path / file, {"w": torch.ones(3)})
    assert load_torch(str(tmp_path / file))["w"].tolist() == [1, 1, 1]
    assert load_torch(os.fsencode(tmp_path / file))["w"].tolist() == [1, 1, 1]


def test_a_file_written_to_a_stream(path):
    stream = io.BytesIO()
    torch.save({"w": torch.ones(3)}, stream)
    path.write_bytes(stream.getvalue())
    assert_read_as_torch_does(path)


@pytest.mark.process
def test_torch_is_not_imported(path):
    torch.save(torch.nn.BatchNorm1d(2).state_dict(), path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from npbn.checkpoint.torch_file import load_torch\n"
        f"print(*load_torch({str(path)!r}))"
    )
    assert run_python("-c", code).out.split()[:2] == ["weight", "bias"]


# Memory


def anonymous_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of 32 MB."""
    path = tmp_path_factory.mktemp("large") / "large.pt"
    torch.save({f"w{i}": torch.full((MB,), float(i)) for i in range(8)}, path)
    return path


def test_a_large_file_is_mapped_not_copied(large):
    def total():
        return sum(float(array.sum()) for array in load_torch(large).values())

    total()  # what is imported and compiled once
    before = anonymous_memory() if sys.platform == "linux" else 0
    tracemalloc.start()
    state = load_torch(large)
    assert sum(float(array.sum()) for array in state.values()) == 28 * MB
    assert tracemalloc.get_traced_memory()[1] < MB
    tracemalloc.stop()
    if sys.platform == "linux":
        assert anonymous_memory() - before < 4 * MB


def test_writing_to_a_mapped_array_leaves_the_file_alone(large):
    before = large.read_bytes()
    state = load_torch(large)
    state["w3"][:] = -1
    assert load_torch(large)["w3"][0] == 3
    assert state["w3"].sum() == -MB
    assert large.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="an open file stays there")
def test_arrays_outlive_the_dictionary_and_the_file_name(large, tmp_path):
    path = tmp_path / "gone.pt"
    path.write_bytes(large.read_bytes())
    array = load_torch(path)["w5"]
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", path)
    assert array.sum() == 5 * MB


def test_a_small_file_may_be_overwritten_in_place(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "f")
    array = load_torch(tmp_path / "f")["w"]
    (tmp_path / "f").write_bytes(b"")
    assert array.tolist() == [1, 1, 1]


# What torch writes and a state does not need


class Net(torch.nn.Linear):
    pass


def with_attribute():
    value = torch.ones(2)
    value.note = "of its own"
    return value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.zeros(2).to(torch.float8_e4m3fn), ["torch.float8_e4m3fn", ".float()"]),
        (lambda: torch.zeros(2, dtype=torch.complex32), ["torch.complex32", "complex64"]),
        (lambda: torch.eye(2).to_sparse(), ["_rebuild_sparse_tensor", "to_dense()"]),
        (lambda: torch.eye(2).to_sparse_csr(), ["_rebuild_sparse_tensor", "to_dense()"]),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            ["_rebuild_qtensor", "dequantize()"],
        ),
        (lambda: torch.nested.nested_tensor([torch.ones(2)]), ["_rebuild_nested_tensor"]),
        (lambda: torch.zeros(2, device="meta"), ["_rebuild_meta_tensor", "no values"]),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), ["conjugated", "resolve_conj()"]),
        (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, ["negated", "resolve_neg()"]),
        (with_attribute, ["_rebuild_from_type_v2", "attributes"]),
        (lambda: torch.ones(2).untyped_storage(), ["_Storage as a value"]),
        (lambda: np.array([None]), ["dtype 'O8'", "expected numbers"]),
        (lambda: np.ones(2, "f4,f4"), ["dtype 'V8'", "expected numbers"]),
        (lambda: np.random.default_rng(0), ["numpy", "torch.from_numpy"]),
        (lambda: 1j, ["complex"]),
        (lambda: Net(2, 2), ["Net'", "torch.save(net.state_dict(), new_path)"]),
        (lambda: torch.nn.ReLU(), ["torch.nn.modules.activation.ReLU", "net.state_dict()"]),
    ],
)
def test_refused_by_name(path, make, words):
    message = refusal(path, {"value": make()})
    for word in words:
        assert word in message


@pytest.mark.filterwarnings("ignore")
def test_other_formats_of_torch(path):
    torch.jit.script(torch.nn.ReLU()).save(path)
    assert "TorchScript" in refusal(path)
