"""to_config, from_config and from_state_dict: networks as plain data, and back."""

import copy
import json
import re
from functools import partial
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import array, assert_same_bits, assert_within, rngs, tensor
from hypothesis import given
from torch import nn

import npbn
from npbn import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.config import TYPES, from_config, to_config
from npbn.errors import ConfigError, StateDictError
from npbn.rebuilding import from_state_dict

# -- drawing --------------------------------------------------------------------------------

sizes = st.sampled_from([1, 2, 3])
sides = sizes | st.tuples(sizes, sizes)
dtypes = st.sampled_from(["float16", "float32", "float64"])
numpys = st.sampled_from([int, np.int64, np.uint8])  # an argument's type


@st.composite
def integers(draw, low=1, high=4):
    return draw(numpys)(draw(st.integers(low, high)))


@st.composite
def options(draw, kind):
    """Draw the arguments of a layer; those with a default may be left out."""
    groups = draw(st.sampled_from([1, 2]))
    norm = {
        "num_features": integers(),
        "eps": st.sampled_from([1e-5, np.float32(1e-3), 1]),
        "momentum": st.sampled_from([None, 0.1, np.float64(0.25), 1]),
        "affine": st.booleans(),
        "track_running_stats": st.booleans() | st.builds(np.bool_, st.booleans()),
        "bias": st.booleans(),
        "dtype": dtypes | st.sampled_from([np.float64, np.dtype("float16")]),
    }
    ghosts = {**norm, "ghost_size": integers()}
    renorm = {name: value for name, value in norm.items() if name != "track_running_stats"}
    renorm |= {"r_max": st.sampled_from([1, 2.5]), "d_max": st.sampled_from([0, np.float64(0.5)])}
    pool = {"kernel_size": sides, "stride": st.none() | sides}
    pool |= {"padding": st.just(0), "ceil_mode": st.booleans()}
    every = {
        "Linear": {
            "in_features": integers(),
            "out_features": integers(),
            "bias": st.booleans(),
            "dtype": dtypes,
        },
        "Conv2d": {
            "in_channels": st.sampled_from([2, np.int32(4)]),
            "out_channels": st.sampled_from([2, 4]),
            "kernel_size": sides | integers(),
            "stride": st.just(1),
            "padding": sides | st.sampled_from(["same", "valid"]),
            "dilation": sides,
            "groups": st.just(groups) | st.just(np.int64(groups)),
            "bias": st.booleans(),
            "padding_mode": st.just("zeros"),
            "dtype": dtypes,
        },
        "MaxPool2d": {**pool, "dilation": sides},
        "AvgPool2d": {
            **pool,
            "count_include_pad": st.booleans(),
            "divisor_override": st.sampled_from([None, 3, -2]),
        },
        "AdaptiveAvgPool2d": {
            "output_size": sides | st.tuples(st.none() | sizes, st.none() | sizes)
        },
        "Dropout": {"p": st.floats(0, 1) | st.builds(np.float64, st.floats(0, 1))},
        "Flatten": {"start_dim": integers(0), "end_dim": st.integers(-3, -1)},
        **dict.fromkeys(["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"], norm),
        **dict.fromkeys(["GhostBatchNorm1d", "GhostBatchNorm2d"], ghosts),
        **dict.fromkeys(["BatchRenorm1d", "BatchRenorm2d"], renorm),
        **{name: {} for name in ("Identity", "ReLU", "Sigmoid")},
    }
    assert every.keys() == TYPES.keys()
    drawn = draw(st.fixed_dictionaries(every[kind]))
    left_out = draw(st.sets(st.sampled_from(sorted(drawn)))) if drawn else set()
    needed = {"num_features", "in_features", "out_features"}
    needed |= {"in_channels", "out_channels", "kernel_size", "output_size"}
    needed |= {"ghost_size", "r_max", "d_max"}
    return {name: value for name, value in drawn.items() if name in needed or name not in left_out}


@st.composite
def any_layers(draw, depth=2):
    """Draw a layer of any type, or a Sequential of such, by number or by name."""
    kind = draw(st.sampled_from([*TYPES, *["Sequential"] * 4 * (depth > 0)]))
    if kind != "Sequential":
        return TYPES[kind](**draw(options(kind)))
    parts = draw(st.lists(any_layers(depth - 1), max_size=3))
    if draw(st.booleans()):
        return Sequential(*parts)
    return Sequential({f"part_{i}": part for i, part in enumerate(parts)})


def through_json(config):
    return json.loads(json.dumps(config, allow_nan=False))


def fill(net, rng):
    for name, a in (*net.named_buffers(), *((n, p.data) for n, p in net.named_parameters())):
        a[...] = 2 if name.endswith("tracked") else rng.uniform(0.5, 2, a.shape)
    return net


def settings_of(layer):
    """Return all that a layer is but arrays, generators and submodules."""
    apart = (npbn.Parameter, np.ndarray, np.random.Generator, Module)
    kept = {k: v for k, v in vars(layer).items() if not isinstance(v, apart)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}


# -- out and in -----------------------------------------------------------------------------


@given(any_layers())
def test_every_layer_goes_through_json_and_comes_back_the_same(net):
    config = to_config(net)
    again = from_config(through_json(config))
    assert through_json(config) == config == to_config(again)
    assert repr(again) == repr(net)
    assert {k: (v.shape, v.dtype) for k, v in net.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in again.state_dict().items()
    }
    for (name, mine), (its_name, its) in zip(
        net.named_modules(), again.named_modules(), strict=True
    ):
        assert name == its_name
        assert type(its) is type(mine)
        expected = settings_of(mine)
        if "affine" in expected and mine.weight is None:
            expected["affine"] = False
        assert settings_of(its) == expected


@st.composite
def runnable(draw):
    """Draw a network of images, and one of theirs."""
    dtype, channels = draw(dtypes), draw(st.sampled_from([2, 4]))
    outputs = 2 * draw(sizes)
    kinds = BatchNorm2d, partial(npbn.GhostBatchNorm2d, ghost_size=2)
    kinds = *kinds, partial(npbn.BatchRenorm2d, r_max=3.0, d_max=5.0)
    kind = draw(st.sampled_from(kinds))
    images = Sequential(
        Conv2d(channels, outputs, draw(sides), 1, draw(sides | st.just("same")), dtype=dtype),
        kind(outputs, eps=draw(st.sampled_from([1e-5, 0.1])), affine=draw(st.booleans())),
        draw(st.sampled_from([ReLU, Sigmoid, Identity]))(),
        draw(st.sampled_from([MaxPool2d(2), npbn.AvgPool2d(2, ceil_mode=True)])),
        npbn.AdaptiveAvgPool2d((2, 1)),
    )
    features, classes = 2 * outputs, draw(sizes)
    net = Sequential(
        images=images,
        flat=Sequential(Flatten(), Dropout(0.3)),
        fc=Linear(features, classes, draw(st.booleans())),
        norm=BatchNorm1d(classes, bias=draw(st.booleans())),
    )
    if dtype != "float16":
        getattr(net, {"float32": "float", "float64": "double"}[dtype])()
    else:
        net._cast(np.float16)
    return net, (channels, 7, 6)


NETWORKS = {
    "MLP": lambda: (npbn.MLP(5, 4, 3), (5,)),
    "MLP plain": lambda: (npbn.MLP(5, 4, 3, use_batch_norm=False, dtype=np.float64), (5,)),
    "CNN": lambda: (npbn.CNN(2, (5, 8), 4, 3), (2, 5, 8)),
}


@given(st.sampled_from(sorted(NETWORKS)).map(lambda name: NETWORKS[name]()) | runnable(), rngs())
def test_what_comes_back_loads_the_state_and_predicts_the_same_bits(case, rng):
    net, shape = case
    fill(net, rng)
    again = from_config(through_json(to_config(net)))
    assert again.load_state_dict(net.state_dict()) == ([], [])
    dtype = next(net.parameters()).dtype
    x = rng.normal(size=(3, *shape)).astype(dtype)
    assert_same_bits(again.predict(x), net.predict(x))


@given(any_layers(), st.integers(0, 2**32 - 1))
def test_the_same_seed_draws_the_same_network(net, seed):
    config = to_config(net)
    mine, its = (from_config(config, rng=np.random.default_rng(seed)) for _ in range(2))
    for key, value in mine.state_dict().items():
        assert_same_bits(its.state_dict()[key], value)
    with pytest.raises(TypeError, match="Generator"):
        from_config(config, rng=seed)


def test_a_description_shares_nothing_with_the_network():
    net = Sequential(MaxPool2d([2, 2]))
    config = to_config(net)
    config["layers"]["0"]["kernel_size"][0] = 7
    assert net[0].kernel_size == [2, 2]
    built = from_config(config)
    config["layers"]["0"]["kernel_size"][0] = 9
    assert built[0].kernel_size == (7, 2)


# -- what cannot be described ---------------------------------------------------------------


class Residual(Sequential):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return x + y, cache


class Own(Linear):
    pass


def tied():
    net = Sequential(Linear(2, 2), inner := Sequential(Linear(2, 2)))
    inner[0].weight = net[0].weight
    return net


def twice(layer):
    return Sequential(a=layer, b=Sequential(layer))


UNDESCRIBED = {
    "subclass": (lambda: Sequential(a=Sequential(Own(2, 2))), ["Own", "'a.0'"]),
    "lone subclass": (lambda: Own(2, 2), ["Own"]),
    "residual": (lambda: Sequential(Residual(Linear(2, 2))), ["Residual", "'0'"]),
    "torch": (lambda: nn.Linear(2, 2), ["expected a Module", "Linear"]),
    "namesake": (lambda: type("Linear", (Linear,), {})(2, 2), ["Linear"]),
    "bare": (Module, ["Module"]),
    "class": (lambda: Linear, ["expected a Module"]),
    "none": (lambda: None, ["expected a Module", "NoneType"]),
    "shared": (lambda: twice(Linear(2, 2)), ["'a'", "'b.0'", "same Linear"]),
    "shared without parameters": (lambda: twice(ReLU()), ["'a'", "'b.0'", "same ReLU"]),
    "shared Sequential": (lambda: twice(Sequential()), ["'a'", "'b.0'", "same Sequential"]),
    "tied": (tied, ["'0.weight'", "'1.0.weight'", "same Parameter"]),
}


@pytest.mark.parametrize("case", UNDESCRIBED)
def test_what_a_description_cannot_say_is_refused(case):
    make, fragments = UNDESCRIBED[case]
    with pytest.raises(ConfigError, match="to_config: ") as caught:
        to_config(make())
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


# -- what describes nothing -----------------------------------------------------------------

LINEAR = {"type": "Linear", "in_features": 2, "out_features": 3}
NORM = {"type": "BatchNorm1d", "num_features": 2}
GHOSTS = {"type": "GhostBatchNorm1d", "num_features": 2, "ghost_size": 2}
RENORM = {"type": "BatchRenorm2d", "num_features": 2, "r_max": 3.0, "d_max": 5.0}
CONV = {"type": "Conv2d", "in_channels": 2, "out_channels": 4, "kernel_size": 3}

WRONG = [
    *[(what, "a mapping with a 'type'") for what in (None, 3, "Linear", [LINEAR], {}, {"type": 3})],
    ({"type": "Linaer"}, "'Linaer'"),
    ({"type": "Module"}, "'Module'"),
    ({"type": "CrossEntropyLoss"}, "'CrossEntropyLoss'"),
    ({"type": "MLP"}, "'MLP'"),
    ({"type": "Sequential"}, "'layers'"),
    ({"type": "Sequential", "layers": [LINEAR]}, "'layers'"),
    ({"type": "Sequential", "layers": {}, "name": "net"}, "'layers'"),
    ({"type": "Sequential", "layers": {"": LINEAR}}, "''"),
    ({"type": "Sequential", "layers": {"a.b": LINEAR}}, "'a.b'"),
    ({"type": "Sequential", "layers": {"training": LINEAR}}, "'training'"),
    ({"type": "Sequential", "layers": {"0": LINEAR, 0: LINEAR}}, "got 0"),
    ({"type": "Linear"}, "in_features"),
    ({"type": "Linear", "in_features": 2}, "out_features"),
    ({"type": "AdaptiveAvgPool2d"}, "output_size"),
    ({**LINEAR, "features": 3, "rng": 0}, "no 'features', 'rng'"),
    ({**LINEAR, "weight": [[1, 2]]}, "no 'weight'"),
    ({"type": "Identity", "p": 1}, "no 'p'"),
    ({"type": "ReLU", "inplace": True}, "no 'inplace'"),
    ({**LINEAR, "in_features": "2"}, "in_features as int, got '2'"),
    ({**LINEAR, "in_features": 2.0}, "in_features as int, got 2.0"),
    ({**LINEAR, "in_features": True}, "in_features as int, got True"),
    ({**LINEAR, "in_features": None}, "in_features as int, got None"),
    ({**LINEAR, "in_features": -1}, "in_features to be an integer of at least 0, got -1"),
    ({**LINEAR, "in_features": 10**40}, ""),
    ({**LINEAR, "bias": "false"}, "bias as bool, got 'false'"),
    ({**LINEAR, "bias": 0}, "bias as bool, got 0"),
    ({**LINEAR, "dtype": "int32"}, "float16, float32 or float64, got int32"),
    ({**LINEAR, "dtype": "float"}, None),  # NumPy's name of float64
    ({**LINEAR, "dtype": "wide"}, "wide"),
    ({**LINEAR, "dtype": None}, "dtype as str, got None"),
    ({**NORM, "num_features": [3]}, "num_features as int"),
    ({**NORM, "eps": "1e-5"}, "eps as float"),
    ({**NORM, "eps": None}, "eps as float"),
    ({**NORM, "eps": 1}, None),
    ({**NORM, "momentum": None}, None),
    ({**GHOSTS, "ghost_size": 2.0}, "ghost_size as int, got 2.0"),
    ({**GHOSTS, "ghost_size": 0}, "ghost_size to be an integer of at least 1, got 0"),
    ({**RENORM, "r_max": 3}, None),
    ({**RENORM, "r_max": "3"}, "r_max as float"),
    ({**RENORM, "d_max": -1}, "d_max >= 0"),
    ({**RENORM, "track_running_stats": False}, "no 'track_running_stats'"),
    ({**NORM, "momentum": "none"}, "momentum as float | None"),
    ({**NORM, "momentum": False}, "momentum as float | None"),
    ({**NORM, "affine": "no"}, "affine as bool"),
    ({**NORM, "track_running_stats": 1}, "track_running_stats as bool"),
    ({**CONV, "kernel_size": [3, 3, 3]}, "kernel_size"),
    ({**CONV, "kernel_size": "3"}, "kernel_size"),
    ({**CONV, "stride": 0}, "stride"),
    ({**CONV, "padding": "full"}, "padding"),
    ({**CONV, "groups": 3}, "groups"),
    ({**CONV, "groups": "2"}, "groups as int"),
    ({**CONV, "padding_mode": "reflect"}, "padding_mode"),
    ({**CONV, "padding_mode": 0}, "padding_mode as str"),
    ({"type": "MaxPool2d", "kernel_size": 2, "ceil_mode": "yes"}, "ceil_mode as bool"),
    ({"type": "AvgPool2d", "kernel_size": 2, "divisor_override": 0}, "divisor_override"),
    ({"type": "AvgPool2d", "kernel_size": 2, "count_include_pad": 2}, "count_include_pad as bool"),
    ({"type": "Dropout", "p": 1.5}, "p from 0 to 1"),
    ({"type": "Dropout", "p": "half"}, "p as float"),
    ({"type": "Flatten", "start_dim": "1"}, "start_dim as int"),
]


@pytest.mark.parametrize(("config", "fragment"), WRONG, ids=lambda v: f"{v!s:.60}")
def test_a_wrong_description_is_refused_by_the_path_of_the_layer(config, fragment):
    """Those without a fragment are right."""
    nested = {"type": "Sequential", "layers": {"0": LINEAR, "block": {}}}
    nested["layers"]["block"] = {"type": "Sequential", "layers": {"bad": config}}
    for whole, where in ((config, "from_config: "), (nested, "from_config: block.bad: ")):
        before = copy.deepcopy(whole)
        if fragment is None:
            assert isinstance(from_config(whole), Module)
        else:
            with pytest.raises(ConfigError, match="^" + re.escape(where)) as caught:
                from_config(whole)
            assert fragment in str(caught.value)
        assert whole == before


# -- from a state_dict ----------------------------------------------------------------------


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
    with pytest.raises(ConfigError, match="layer 1 has no parameters: what is it") as caught:
        from_state_dict(state)
    assert "layers={..., '1': npbn.ReLU(), ...}" in str(caught.value)
    with pytest.raises(ConfigError, match="layers says nothing of 0, 2, 3"):
        from_state_dict(state, {"1": ReLU()})
    told = {"0": None, "1": ReLU(), "2": {"eps": 0.1}, "3": None}
    net = from_state_dict(state, told)
    assert net[1] is told["1"]
    assert_is(net, model, rng.normal(size=(4, 3)))


def test_a_gap_at_the_start_and_two_in_a_row_are_asked_for():
    state = {f"{n}.weight": np.ones((2, 2)) for n in (1, 4)}
    with pytest.raises(ConfigError, match="layer 0, 2, 3 has no parameters"):
        from_state_dict(state)


def test_names_need_layers():
    rng = np.random.default_rng(0)
    model = its_network(rng, fc1=nn.Linear(3, 4), bn=nn.BatchNorm1d(4), fc2=nn.Linear(4, 2))
    state = model.state_dict()
    with pytest.raises(ConfigError, match="the names fc1, bn, fc2 do not tell"):
        from_state_dict(state)
    assert_is(
        from_state_dict(state, dict.fromkeys(["fc1", "bn", "fc2"])), model, rng.normal(size=(4, 3))
    )


def test_a_layer_of_a_layer_is_refused():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"'0\.0' is a layer of a layer.*from_config"):
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
        ConfigError, match="0: the shape of a convolution does not tell stride"
    ) as e:
        from_state_dict(state, {"0": None, **others})
    assert all(word in str(e.value) for word in ("padding", "dilation", "groups"))
    with pytest.raises(ConfigError, match="0: the shape of a convolution"):
        from_state_dict({"0.weight": np.ones((1, 1, 1, 1))})
    told = {"stride": [1, 2], "padding": 1, "groups": 2}
    net = from_state_dict(state, {"0": told, **others})
    assert_is(net, model, rng.normal(size=(2, 2, 6, 6)))
    assert repr(net[0]) == repr(Conv2d(2, 4, (3, 2), (1, 2), 1, groups=2, bias=False))
    with pytest.raises(ConfigError, match="0: Conv2d takes groups as int, got 'two'"):
        from_state_dict(state, {"0": {"groups": "two"}, **others})


@pytest.mark.parametrize("pooling", [npbn.AvgPool2d(1), npbn.AdaptiveAvgPool2d(2), MaxPool2d(1)])
def test_a_batch_norm_after_pooling_is_of_images(pooling):
    state = {f"bn.{key}": value for key, value in BatchNorm2d(2).state_dict().items()}
    net = from_state_dict(state, {"pool": pooling, "relu": ReLU(), "bn": None})
    assert type(net.bn) is BatchNorm2d


@pytest.mark.parametrize("first", [{}, {"relu": ReLU()}], ids=["first", "after ReLU"])
def test_a_batch_norm_of_any_rank_has_to_be_passed(first):
    model = its_network(np.random.default_rng(0), bn=nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="bn: no layer before this BatchNorm tells the rank"):
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


@pytest.mark.parametrize(("state", "told", "error", "fragment"), BROKEN, ids=lambda v: f"{v!s:.50}")
def test_a_state_that_does_not_tell_a_network_is_refused(state, told, error, fragment):
    with pytest.raises(error) as caught:
        from_state_dict(state, told)
    assert fragment in str(caught.value), str(caught.value)


def test_what_is_built_is_a_copy():
    state = {key: value.copy() for key, value in PAIR.items()}
    net = from_state_dict(state)
    net[0].weight.data[...] = 7
    assert (state["0.weight"] == 1).all()
