"""from_state_dict: networks rebuilt from names and shapes."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import array, assert_same_bits, assert_within, rngs, tensor
from hypothesis import given
from torch import nn

import npbn
from npbn import BatchNorm1d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from npbn.deploy.config import to_config
from npbn.deploy.rebuilding import from_state_dict
from npbn.errors import ConfigError, StateDictError


def its_network(rng, *layers, **named):
    """Return torch's network of these in float64, filled, in eval mode."""
    model = nn.Sequential(*layers) if layers else nn.Sequential()
    for name, layer in named.items():
        model.add_module(name, layer)
    for name, value in model.double().eval().state_dict().items():
        if not name.endswith("tracked"):
            value[...] = torch.from_numpy(np.asarray(rng.uniform(0.5, 2, tuple(value.shape))))
    return model


def assert_is(net, model, x):
    """Assert that it has the state of torch's, and predicts the same to 300 roundings."""
    state = model.state_dict()
    assert list(net.state_dict()) == list(state)
    for key, value in state.items():
        assert_same_bits(net.state_dict()[key], array(value))
    expected = array(model(tensor(x)))
    bound = 300 * np.finfo(np.float64).eps * max(1, np.abs(expected).max())
    assert_within(net.predict(x), expected, bound)


@given(rngs(), st.data())
def test_a_numbered_state_without_gaps_is_rebuilt(rng, data):
    """All weights, statistics and inputs are positive: nothing cancels but BatchNorm's mean, by
    which terms are a dozen times their sum at most, as the variance is at least 0.5."""
    widths = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    layers = []
    for inputs, outputs in pairwise(widths):
        layers.append(nn.Linear(inputs, outputs, bias=data.draw(st.booleans())))
        if data.draw(st.booleans()):
            affine, bias = data.draw(st.booleans()), data.draw(st.booleans())
            layers.append(nn.BatchNorm1d(outputs, affine=affine, bias=bias))
    model = its_network(rng, *layers)
    net = from_state_dict(model.state_dict())
    assert_is(net, model, rng.uniform(0, 1, (4, widths[0])))
    assert [type(layer).__name__ for layer in net] == [type(layer).__name__ for layer in layers]


def test_a_gap_is_asked_for_and_filled():
    rng = np.random.default_rng(0)
    model = its_network(
        rng, nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4, eps=0.1), nn.Linear(4, 2)
    )
    state = model.state_dict()
    with pytest.raises(ConfigError, match="layer 1 has no parameters; pass layers") as caught:
        from_state_dict(state)
    assert "layers={..., '1': npbn.ReLU(), ...}" in str(caught.value)
    with pytest.raises(ConfigError, match="layers does not contain 0, 2, 3"):
        from_state_dict(state, {"1": ReLU()})
    layers = {"0": None, "1": ReLU(), "2": {"eps": 0.1}, "3": None}
    net = from_state_dict(state, layers)
    assert net[1] is layers["1"]
    assert_is(net, model, rng.normal(size=(4, 3)))


def test_a_gap_at_the_start_and_two_in_a_row_are_asked_for():
    state = {f"{n}.weight": np.ones((2, 2)) for n in (1, 4)}
    with pytest.raises(ConfigError, match="layer 0, 2, 3 has no parameters"):
        from_state_dict(state)


def test_names_need_layers():
    rng = np.random.default_rng(0)
    model = its_network(rng, fc1=nn.Linear(3, 4), bn=nn.BatchNorm1d(4), fc2=nn.Linear(4, 2))
    state = model.state_dict()
    with pytest.raises(ConfigError, match="the names fc1, bn, fc2 do not show"):
        from_state_dict(state)
    assert_is(
        from_state_dict(state, dict.fromkeys(["fc1", "bn", "fc2"])), model, rng.normal(size=(4, 3))
    )


def test_a_layer_of_a_layer_is_refused():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"'0\.0' is a layer within a layer.*from_config"):
        from_state_dict(model.state_dict())


def its_images(rng, groups=1):
    return its_network(
        rng,
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.BatchNorm1d(24),
        nn.Linear(24, 3),
        nn.BatchNorm1d(3),
    )


def test_convolutions_are_asked_for_what_their_shapes_do_not_tell():
    rng = np.random.default_rng(0)
    model = its_images(rng, groups=2)
    others = {"1": None, "2": ReLU(), "3": MaxPool2d(2), "4": None, "5": Flatten(), "6": None}
    others |= {"7": None, "8": None}
    state = model.state_dict()
    with pytest.raises(
        ConfigError, match="0: the shape of a convolution does not determine stride"
    ) as e:
        from_state_dict(state, {"0": None, **others})
    assert all(word in str(e.value) for word in ("padding", "dilation", "groups"))
    with pytest.raises(ConfigError, match="0: the shape of a convolution"):
        from_state_dict({"0.weight": np.ones((1, 1, 1, 1))})
    layers = {"stride": [1, 2], "padding": 1, "groups": 2}
    net = from_state_dict(state, {"0": layers, **others})
    assert_is(net, model, rng.normal(size=(2, 2, 6, 6)))
    assert repr(net[0]) == repr(Conv2d(2, 4, (3, 2), (1, 2), 1, groups=2, bias=False))
    with pytest.raises(ConfigError, match=r"0: Conv2d: expected groups .* got 'two'"):
        from_state_dict(state, {"0": {"groups": "two"}, **others})


@pytest.mark.parametrize("pooling", [npbn.AvgPool2d(1), npbn.AdaptiveAvgPool2d(2), MaxPool2d(1)])
def test_a_batch_norm_after_pooling_is_of_images(pooling):
    state = {f"bn.{key}": value for key, value in BatchNorm2d(2).state_dict().items()}
    net = from_state_dict(state, {"pool": pooling, "relu": ReLU(), "bn": None})
    assert type(net.bn) is BatchNorm2d


@pytest.mark.parametrize("first", [{}, {"relu": ReLU()}], ids=["first", "after ReLU"])
def test_a_batch_norm_of_any_rank_has_to_be_passed(first):
    model = its_network(np.random.default_rng(0), bn=nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="bn: no layer before this BatchNorm shows the rank"):
        from_state_dict(model.state_dict(), {**first, "bn": None})
    net = from_state_dict(model.state_dict(), {**first, "bn": BatchNorm1d(3, dtype=np.float64)})
    assert type(net.bn) is BatchNorm1d
    assert_same_bits(net.bn.running_var, array(model.bn.running_var))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layers_have_the_dtype_of_their_arrays(dtype):
    state = Sequential(Linear(2, 2, dtype=dtype), BatchNorm1d(2, affine=False, dtype=dtype))
    net = from_state_dict(state.state_dict())
    assert {a.dtype for _, a in net._state() if a.ndim} == {np.dtype(dtype)}
    assert to_config(net) == to_config(state)


def test_a_plain_mapping_without_counters_loads():
    state = Sequential(Linear(2, 2), BatchNorm1d(2)).state_dict()
    del state["1.num_batches_tracked"]
    assert type(from_state_dict(state)[1]) is BatchNorm1d


PAIR = {"0.weight": np.ones((2, 3)), "0.bias": np.ones(2)}
NORM_STATE = {f"1.{k}": v for k, v in BatchNorm1d(2, dtype=np.float64).state_dict().items()}

BROKEN = [
    ({}, None, ConfigError, "got none"),
    ({"weight": np.ones((2, 3))}, None, ConfigError, "keys such as '0.weight', got ['weight']"),
    ({"0.bias": np.ones(2)}, None, ConfigError, "0: expected the arrays of a Linear"),
    ({"0.weight": np.ones(2)}, None, ConfigError, "{'weight': (2,)}; pass it as a Module"),
    ({"0.weight": np.ones((2, 3, 4))}, None, ConfigError, "(2, 3, 4)"),
    ({"0.weight_g": np.ones((2, 3))}, None, ConfigError, "weight_g"),
    ({"0.weight": np.ones((2, 3), int)}, None, ConfigError, "0: Linear: expected dtype"),
    ({"0.weight": [[1.0], [1.0, 2.0]]}, None, ConfigError, "0.weight: expected an array"),
    ({**PAIR, "0.extra": np.ones(2)}, None, StateDictError, "unexpected key '0.extra'"),
    ({**PAIR, "0.bias": np.ones(3)}, None, StateDictError, "'0.bias'"),
    (
        {key: v for key, v in {**PAIR, **NORM_STATE}.items() if key != "1.running_var"},
        None,
        StateDictError,
        "missing key '1.running_var'",
    ),
    ({**PAIR, **NORM_STATE, "1.running_mean": np.float64(1)}, None, StateDictError, "running_mean"),
    (PAIR, {"0": {"features": 3}}, ConfigError, "0: Linear takes no 'features'"),
    (PAIR, {"0": {"in_features": 4}}, StateDictError, "'0.weight'"),
    (PAIR, {"0": None, "1": None}, ConfigError, "1: expected the arrays of"),
    (PAIR, {"0": None, "1": ReLU}, ConfigError, "1: expected a Module, a dict or None"),
    (PAIR, {"0": "Linear"}, ConfigError, "0: expected a Module, a dict or None"),
    (PAIR, {"0": None, "training": ReLU()}, ConfigError, "'training'"),
    (PAIR, {"0": None, "": ReLU()}, ConfigError, "''"),
]


@pytest.mark.parametrize(
    ("state", "layers", "error", "fragment"), BROKEN, ids=lambda v: f"{v!s:.50}"
)
def test_a_state_that_does_not_tell_a_network_is_refused(state, layers, error, fragment):
    with pytest.raises(error) as caught:
        from_state_dict(state, layers)
    assert fragment in str(caught.value), str(caught.value)


def test_what_is_built_is_a_copy():
    state = {key: value.copy() for key, value in PAIR.items()}
    net = from_state_dict(state)
    net[0].weight.data[...] = 7
    assert (state["0.weight"] == 1).all()
