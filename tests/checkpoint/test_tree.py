"""Nested states of every kind come back through both formats, bit for bit."""

import json
import math
import struct
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npbn
from npbn.checkpoint import Checkpoint, load, save, tree
from npbn.errors import CheckpointError

SUFFIXES = (".npz", ".safetensors")
# Under load, drawing deep states may take long; that is no fault of theirs.
calm = settings(suppress_health_check=[HealthCheck.too_slow])
CODES = ["?", *"bhilqBHILQefdF", ">i2", ">f4", ">f8"]


def same(mine, its):
    """Whether two states are of the same kinds, dtypes, shapes and bits."""
    if isinstance(mine, np.generic) and isinstance(its, np.generic):
        mine, its = np.array(mine), np.array(its)  # C's long and long long are two types, one dtype
    if type(mine) is not type(its):
        return False
    if isinstance(mine, np.ndarray):
        mine = mine.astype(mine.dtype.newbyteorder("="))
        kinds = mine.dtype == its.dtype and mine.shape == its.shape
        return kinds and mine.tobytes() == its.tobytes()
    if isinstance(mine, dict):
        return same(list(mine), list(its)) and all(same(mine[key], its[key]) for key in mine)
    if isinstance(mine, list | tuple):
        return len(mine) == len(its) and all(map(same, mine, its))
    if isinstance(mine, float):
        return struct.pack("d", mine) == struct.pack("d", its)
    return mine == its


@st.composite
def arrays(draw):
    """Arrays of all dtypes and layouts; their bits are drawn, NaNs of every kind among them."""
    dtype = np.dtype(draw(st.sampled_from(CODES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "b":
        array = rng.integers(0, 2, shape).astype(bool)
    else:
        bits = rng.bytes(math.prod(shape) * dtype.itemsize)
        array = np.frombuffer(bits, dtype).reshape(shape)
    layout = draw(st.sampled_from(["C", "F", "reversed", "strided", "broadcast", "unaligned"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array.T
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=0)[::-2]
    if layout == "broadcast":
        return np.broadcast_to(array, (2, *shape))
    if layout == "unaligned":
        return np.ndarray(shape, dtype, b"x" + array.tobytes(), offset=1)
    return array


@st.composite
def scalars(draw):
    array = draw(arrays().filter(lambda a: a.size and a.dtype.isnative))
    return array.reshape(-1)[0]


KEYS = st.text(st.characters(), max_size=5) | st.sampled_from(["a", "a/b", "__metadata__", ""])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**100, 2**300)
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=5)
    | st.sets(st.text(max_size=3) | st.integers() | st.none(), max_size=3)
)
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
STATES = st.dictionaries(
    KEYS | NUMBERS,
    st.recursive(
        PLAIN | arrays() | scalars(),
        lambda part: (
            st.lists(part, max_size=3)
            | st.lists(part, max_size=3).map(tuple)
            | st.dictionaries(KEYS | NUMBERS | st.integers(2**64), part, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def through(state, path, **options):
    save(state, path, **options)
    return load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@calm
@given(state=STATES)
def test_any_state_comes_back(suffix, state, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / f"state{suffix}"
    found = through(state, path)
    assert type(found) is Checkpoint
    assert same(state, dict(found))
    assert found.metadata == {"npbn_version": npbn.__version__, "format": 1}


@pytest.mark.parametrize("suffix", SUFFIXES)
@calm
@given(state=st.dictionaries(st.text("ab./é", min_size=1, max_size=4), arrays(), max_size=4))
def test_a_flat_state_is_plain_to_other_programs(suffix, state, tmp_path_factory):
    from safetensors.numpy import load_file

    path = tmp_path_factory.mktemp("flat") / f"state{suffix}"
    save(state, path)
    theirs = dict(np.load(path, allow_pickle=False)) if suffix == ".npz" else load_file(path)
    assert theirs.keys() == state.keys()
    assert all(same(np.array(state[key]), theirs[key]) for key in state)


@pytest.mark.parametrize("suffix", SUFFIXES)
@calm
@given(state=st.dictionaries(st.text(min_size=1, max_size=4), arrays(), max_size=4))
def test_what_comes_back_may_be_changed(suffix, state, tmp_path_factory):
    path = tmp_path_factory.mktemp("change") / f"state{suffix}"
    for array in through(state, path).values():
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.dtype.isnative
        array[...] = 0
    assert same(state, dict(load(path)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_generators_of_numpy_go_on_where_they_were(suffix, tmp_path):
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        rng = np.random.Generator(kind(3))
        rng.integers(0, 9, 3, dtype=np.int32)
        path = tmp_path / f"{kind.__name__}{suffix}"
        save({"order": rng.bit_generator.state}, path)
        expected = rng.permutation(50)
        other = np.random.Generator(kind(4))
        other.bit_generator.state = load(path)["order"]
        assert (other.permutation(50) == expected).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_state_of_an_optimizer_comes_back(suffix, tmp_path):
    net = npbn.Linear(2, 3)
    optimizer = npbn.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(np.ones((4, 2), np.float32))
    net.backward(np.ones((4, 3), np.float32))
    optimizer.step()
    found = through(optimizer, tmp_path / f"sgd{suffix}")
    assert found["state"].keys() == {0, 1}
    assert same(optimizer.state_dict(), dict(found))
    assert found.metadata.keys() == {"npbn_version", "format"}


def test_subclasses_come_back_as_the_plain_kind(tmp_path):
    pair = namedtuple("pair", "x y")
    found = through({"a": OrderedDict(b=pair(1, True))}, tmp_path / "x.npz")
    assert same(dict(found), {"a": {"b": (1, True)}})


def test_the_arrays_are_named_by_their_path():
    a = np.zeros(1)
    found, _ = tree.flatten({"m": {"w": a, "l": [a, {1: a}]}, "m/w": a, "s": np.float32(1)})
    assert list(found) == ["m/w", "m/l/0", "m/l/1/1", "m/w~3", "s"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", ["__metadata__", "", "a\\b", "a\0b", "\ud800", "x" * 70_000, 7])
def test_keys_that_no_file_can_have_as_names(suffix, key, tmp_path):
    state = {key: np.ones(2), "array": np.zeros(1)}
    assert same(state, dict(through(state, tmp_path / f"x{suffix}")))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbers_that_json_has_not(suffix, tmp_path):
    payload = struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_1234))[0]
    state = {"big": [10**5000, -(2**53), 2**53 + 1], "odd": [payload, math.inf, -math.inf, -0.0]}
    assert same(state, dict(through(state, tmp_path / f"x{suffix}")))
    json.dumps(tree.flatten(state)[1], allow_nan=False)


def test_torch_tensors_are_arrays(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.BatchNorm1d(3)
    found = through(model.state_dict(), tmp_path / "x.safetensors")
    npbn.BatchNorm1d(3).load_state_dict(found)
    assert same(dict(found), {key: value.numpy() for key, value in model.state_dict().items()})
    wide = through({"a": [torch.full((2,), 1.5, dtype=torch.bfloat16)]}, tmp_path / "x.npz")
    assert same(dict(wide), {"a": [np.full(2, 1.5, np.float32)]})


def nested(depth):
    state = {}
    for _ in range(depth):
        state = {"a": state}
    return state


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": {"b": 1j}}, "a/b: .*complex"),
        ({"a": np.array([None])}, "a: .*object"),
        ({"a": np.zeros(2, "U3")}, "a: .*<U3"),
        ({"a": np.zeros(2, "M8[s]")}, "a: .*datetime64"),
        ({"a": np.zeros(2, "f4,f4")}, "a: .*f4"),
        ({"a": np.str_("x")}, "a: .*<U1"),
        ({"a": np.ma.masked_array([1.0], [True])}, "a: .*mask"),
        ({"a": {(1, 2): 1}}, r"a: expected keys .*\(1, 2\)"),
        ({"a": {b"b": 1}}, "a: expected keys .*b'b'"),
        ({"a": {b"b"}}, "a dictionary's key is a bytes"),
        ({"a": bytearray(2)}, "a: .*bytearray"),
        ({"a\nb": 1j}, r"a\\nb: .*complex"),
        ([np.zeros(1)], "expected .*list"),
        (None, "expected .*NoneType"),
        (nested(100_000), "nested too deeply"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name(tmp_path, state, words):
    with pytest.raises(CheckpointError, match=rf"x\.npz: (the state:? )?(is )?{words}"):
        save(state, tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_from_2_to_the_53_on_are_written_as_hexadecimal(sign):
    below, above = sign * (2**53 - 1), sign * 2**53
    _, skeleton = tree.flatten({"a": [below, above]})
    assert skeleton == {"dict": {"a": [below, {"int": hex(above)}]}}


def test_a_name_of_200_characters_is_kept_and_a_longer_one_is_not():
    for length, named in ((1, True), (200, True), (201, False)):
        (name,) = tree.flatten({"x" * length: np.zeros(1)})[0]
        assert (name == "x" * length) == named


def test_a_state_that_contains_itself_is_refused(tmp_path):
    state = {}
    state["self"] = state
    with pytest.raises(CheckpointError, match="contains itself"):
        save(state, tmp_path / "x.npz")


def test_complex128_goes_to_npz_alone(tmp_path):
    state = {"a": np.array([1j])}
    assert same(state, dict(through(state, tmp_path / "x.npz")))
    with pytest.raises(CheckpointError, match=r"x\.safetensors|complex128; save to \.npz"):
        save(state, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_keys_that_take_long_to_store_are_not_saved(tmp_path):
    """What cannot be read back is refused when it is saved."""
    with pytest.raises(CheckpointError, match="beyond 60 bits; there are over 1000 such keys"):
        save({"a": {2**80 + k: None for k in range(1001)}}, tmp_path / "x.npz")
    with pytest.raises(CheckpointError, match="over 65536 keys are numbers"):
        save({"a": dict.fromkeys(range(65537))}, tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metadata", [{"a": np.zeros(2)}, {"a": 10**5000}, {(1, 2): 3}])
def test_metadata_that_json_cannot_hold_are_refused(tmp_path, metadata):
    with pytest.raises(CheckpointError, match=r"x\.npz: expected metadata"):
        save({}, tmp_path / "x.npz", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "skeleton", [[], 3, {"a": 1, "b": 2}, {}, {"dict": 3}, {"array": "b"}, {"call": "x"}]
)
def test_a_skeleton_that_is_none_is_refused(skeleton):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        tree.rebuild(skeleton, {"a": np.zeros(1)})
