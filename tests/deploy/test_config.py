"""to_config, from_config and from_state_dict: networks as plain data, and back."""

import json
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import assert_same_bits, rngs
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
from npbn.deploy.config import from_config, to_config
from npbn.deploy.layer_arguments import TYPES
from npbn.errors import ConfigError, StateDictError

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


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_state_with_a_prefix_is_refused_with_how_to_load_it(prefix):
    net = Sequential(fc=Linear(2, 1))
    state = {f"{prefix}{key}": value for key, value in net.state_dict().items()}
    del state[f"{prefix}fc.bias"]
    with pytest.raises(StateDictError) as caught:
        npbn.from_config(to_config(net), state=state)
    assert str(caught.value).startswith("from_config: missing key")  # before anything is made
    assert ("strip_prefix='module.'" in str(caught.value)) == bool(prefix)
