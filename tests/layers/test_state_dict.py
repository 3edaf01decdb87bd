"""state_dict and load_state_dict: what torch's are, and no half-done load."""

import copy
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import rngs
from hypothesis import given
from torch import nn

import npbn
from npbn.errors import StateDictError

DTYPES = {np.float32: torch.float32, np.float64: torch.float64}
KEYS = [
    "0.weight",
    "0.bias",
    "1.weight",
    "1.bias",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
    "3.0.weight",
    "3.1.running_mean",
    "3.1.running_var",
    "3.1.num_batches_tracked",
]
dtypes = st.sampled_from(list(DTYPES))


def build(library, **dtype):
    """Make the same network in either library."""
    return library.Sequential(
        library.Linear(4, 3, **dtype),
        library.BatchNorm1d(3, **dtype),
        library.ReLU(),
        library.Sequential(
            library.Linear(3, 2, bias=False, **dtype),
            library.BatchNorm1d(2, affine=False, **dtype),
        ),
    )


def npbn_network(dtype, rng):
    """Return an npbn network whose state is drawn, running statistics and counters too."""
    net = build(npbn, dtype=dtype)
    for parameter in net.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    for _ in range(rng.integers(1, 4)):
        net(rng.normal(size=(5, 4)).astype(dtype))
    return net


def torch_network(dtype, rng):
    model = build(nn, dtype=DTYPES[dtype])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape)))
        for _ in range(rng.integers(1, 4)):
            model(torch.from_numpy(rng.normal(size=(5, 4)).astype(dtype)))
    return model


def bits(state):
    return {key: (value.shape, value.dtype, value.tobytes()) for key, value in state.items()}


# -- round trips ----------------------------------------------------------------------------


@given(dtypes, dtypes, rngs())
def test_torchs_state_loads_without_conversion_and_is_cast_as_torch_casts(its_dtype, dtype, rng):
    model, other = torch_network(its_dtype, rng), torch_network(dtype, rng)
    net = npbn_network(dtype, rng)
    assert net.load_state_dict(model.state_dict()) == ([], [])
    other.load_state_dict(model.state_dict())
    assert bits(net.state_dict()) == bits({k: v.numpy() for k, v in other.state_dict().items()})


@given(dtypes, rngs())
def test_the_state_loads_into_torch_through_from_numpy(dtype, rng):
    net, model = npbn_network(dtype, rng), torch_network(dtype, rng)
    state = net.state_dict()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    its_state = model.state_dict()
    assert list(its_state) == list(state) == KEYS
    assert bits(state) == bits({key: value.numpy() for key, value in its_state.items()})


@given(dtypes, dtypes, rngs())
def test_the_state_loads_into_another_network_and_is_cast(its_dtype, dtype, rng):
    other, net = npbn_network(its_dtype, rng), npbn_network(dtype, rng)
    net.load_state_dict(other.state_dict())
    expected = {
        key: value if key.endswith("tracked") else value.astype(dtype)
        for key, value in other.state_dict().items()
    }
    assert bits(net.state_dict()) == bits(expected)


# -- what is handed out ---------------------------------------------------------------------


def test_values_are_contiguous_arrays_of_torchs_dtypes():
    net = npbn_network(np.float32, np.random.default_rng(0))
    net[0].weight.data = np.asfortranarray(net[0].weight.data)
    net[1].running_mean = np.arange(6, dtype=np.float32)[::2]
    its_state = torch_network(np.float32, np.random.default_rng(0)).state_dict()
    for key, value in net.state_dict().items():
        assert isinstance(value, np.ndarray)
        assert value.flags.c_contiguous
        assert value.flags.owndata
        assert value.dtype == its_state[key].numpy().dtype
        assert value.shape == tuple(its_state[key].shape)
    assert net.state_dict()["1.num_batches_tracked"].dtype == np.int64
    assert net.state_dict()["1.num_batches_tracked"].shape == ()
    np.testing.assert_array_equal(net.state_dict()["1.running_mean"], [0, 2, 4])


def test_values_are_copies_in_both_directions():
    rng = np.random.default_rng(0)
    net = npbn_network(np.float32, rng)
    before = bits(net.state_dict())
    for value in net.state_dict().values():
        value[...] = 9
    assert bits(net.state_dict()) == before
    given_state = npbn_network(np.float32, rng).state_dict()
    net.load_state_dict(given_state)
    loaded = bits(net.state_dict())
    for value in given_state.values():
        value[...] = 9
    assert bits(net.state_dict()) == loaded


def test_loading_fills_the_arrays_in_place():
    rng = np.random.default_rng(0)
    net = npbn_network(np.float32, rng)
    arrays = [parameter.data for parameter in net.parameters()]
    arrays += [buffer for _, buffer in net.named_buffers()]
    state = npbn_network(np.float64, rng).state_dict()
    net.load_state_dict(state)
    now = [parameter.data for parameter in net.parameters()]
    now += [buffer for _, buffer in net.named_buffers()]
    assert all(a is b for a, b in zip(arrays, now, strict=True))


def test_a_layer_under_two_names_has_both_keys_and_takes_either():
    layer = npbn.Linear(2, 2, bias=False)
    net = npbn.Sequential(a=layer, b=layer)
    assert list(net.state_dict()) == ["a.weight", "b.weight"]
    assert net.load_state_dict({"b.weight": np.ones((2, 2))}, strict=False) == (["a.weight"], [])
    np.testing.assert_array_equal(layer.weight.data, 1)


# -- what may be missing or too much --------------------------------------------------------


def test_num_batches_tracked_may_be_missing_and_then_stays():
    rng = np.random.default_rng(0)
    net = npbn_network(np.float64, rng)
    counters = [net[1].num_batches_tracked.item(), net[3][1].num_batches_tracked.item()]
    plain = {k: v for k, v in npbn_network(np.float64, rng).state_dict().items() if "num" not in k}
    assert net.load_state_dict(plain) == ([], [])
    assert counters == [net[1].num_batches_tracked, net[3][1].num_batches_tracked]
    assert bits(plain).items() <= bits(net.state_dict()).items()


def test_lists_and_numbers_are_values_too():
    net = npbn.Linear(2, 1)
    net.load_state_dict({"weight": [[1, 2.5]], "bias": torch.tensor([3])})
    np.testing.assert_array_equal(net.predict(np.ones((1, 2), np.float32)), [[6.5]])


missing_and_unexpected = st.tuples(
    st.sets(st.sampled_from([key for key in KEYS if "num_batches" not in key])),
    st.sets(st.sampled_from(["2.weight", "0.running_mean", "weight", "fc.x", "3.1.weight"])),
)


@given(missing_and_unexpected, rngs())
def test_not_strict_takes_what_fits_and_returns_the_rest_as_torch_does(differences, rng):
    missing, unexpected = differences
    net, model = npbn_network(np.float64, rng), torch_network(np.float64, rng)
    state = torch_network(np.float64, rng).state_dict()
    state = {key: value for key, value in state.items() if key not in missing}
    state |= dict.fromkeys(sorted(unexpected), torch.zeros(2))
    before = net.state_dict()

    result = net.load_state_dict(state, strict=False)
    its_result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == its_result.missing_keys
    assert sorted(result.unexpected_keys) == sorted(its_result.unexpected_keys)
    assert tuple(result) == (result.missing_keys, result.unexpected_keys)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key] if key in missing else state[key])


WRONG = {
    "a shape": np.zeros((7, 7)),
    "a shape that would broadcast": np.zeros(1),
    "nothing": None,
    "a string": "weights",
    "a ragged list": [[1.0], [1.0, 2.0]],
    "an object": object(),
    "a tensor that needs a gradient": torch.zeros(2, requires_grad=True),
}


@given(
    missing_and_unexpected,
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(list(WRONG)), max_size=4),
    st.booleans(),
    rngs(),
)
def test_one_error_names_every_key_that_does_not_fit_and_nothing_changes(
    differences, wrong, strict, rng
):
    missing, unexpected = differences
    missing -= wrong.keys()
    named = set(wrong) | (missing | unexpected if strict else set())
    twin = npbn_network(np.float32, copy.deepcopy(rng))
    net = npbn_network(np.float32, rng)
    state = {key: value + 1 for key, value in net.state_dict().items() if key not in missing}
    state |= {key: WRONG[what] for key, what in wrong.items()}
    state |= dict.fromkeys(unexpected, np.zeros(2))
    before = bits(net.state_dict())

    if not named:
        net.load_state_dict(state, strict)
        return
    with pytest.raises(StateDictError, match=r"^Sequential\.load_state_dict: ") as caught:
        net.load_state_dict(state, strict)
    # Each problem starts with, or in strict mode announces, the key it is about.
    assert set(re.findall(r"'([\w.]+)'(?=: expected| cannot|;|$)", str(caught.value))) == named
    assert isinstance(caught.value, RuntimeError)
    assert bits(net.state_dict()) == before
    grad_output = rng.normal(size=(5, 2)).astype(np.float32)  # what waits for backward still does
    np.testing.assert_array_equal(net.backward(grad_output), twin.backward(grad_output))


@pytest.mark.parametrize(
    "value",
    [
        np.array([None, None, None]),
        np.array(["a", "b", "c"]),
        np.array([1j, 2j, 3j]),
        np.array(["2020-01-01"] * 3, "datetime64[D]"),
        torch.zeros(3, requires_grad=True),
        torch.zeros(3, device="meta"),
    ],
    ids=lambda value: str(value.dtype),
)
@pytest.mark.parametrize("strict", [True, False])
def test_values_of_the_right_shape_that_are_no_real_numbers_are_refused(value, strict):
    net = npbn_network(np.float32, np.random.default_rng(0))
    before = net.state_dict()
    with pytest.raises(StateDictError, match=r"'0\.bias'"):
        net.load_state_dict(before | {"0.weight": np.ones((3, 4)), "0.bias": value}, strict)
    assert bits(net.state_dict()) == bits(before)


def test_the_error_says_what_came_and_what_was_expected():
    net = npbn.Linear(3, 2)
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict({"weight": np.zeros((3, 2)), "bais": np.zeros(2)})
    assert str(caught.value) == (
        "Linear.load_state_dict: 'weight': expected shape (2, 3), got (3, 2); "
        "missing key 'bias'; unexpected key 'bais'"
    )


def test_numbers_beyond_the_dtype_become_infinite_without_a_warning_as_in_torch():
    mine, its = npbn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with np.errstate(all="raise"):
        mine.load_state_dict({"weight": np.array([[1e300]])})
    its.load_state_dict({"weight": torch.tensor([[1e300]], dtype=torch.float64)})
    assert mine.weight.data == its.weight.item() == np.inf


def test_keys_that_may_be_left_over_are_no_reason_to_advise_a_prefix():
    class Net(npbn.Module):
        def __init__(self):
            self.model = npbn.Linear(2, 3)

    state = {"model.weight": np.ones((9, 9)), "model.bias": np.ones(3), "model.old": np.ones(1)}
    with pytest.raises(npbn.errors.StateDictError) as caught:
        Net().load_state_dict(state, strict=False)
    assert "model.weight" in str(caught.value)
    assert "strip_prefix" not in str(caught.value)


@pytest.mark.parametrize("problems", [20, 21, 22])
def test_of_many_problems_the_first_twenty_are_named_and_the_others_counted(problems):
    net = npbn.Sequential(*(npbn.Linear(1, 1, bias=False) for _ in range(problems)))
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict({})
    assert str(caught.value).count("missing") == 20
    assert ("more" in str(caught.value)) == (problems > 20)
    assert problems == 20 or f"and {problems - 20} more" in str(caught.value)
