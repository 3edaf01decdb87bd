"""fold_batch_norm refuses what it cannot fold, and says why."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
from foldable import assert_folded, fill, magnitude
from helpers import assert_same_bits, assert_within, rngs
from hypothesis import given

from npbn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.deploy.folding import fold_batch_norm
from npbn.errors import ConfigError

# -- what cannot be folded ------------------------------------------------------------------


class Residual(Sequential):
    """Not one layer after another."""

    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return x + y, cache


class Noisy(BatchNorm1d):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return y + 1, cache


class Doubled(Linear):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return 2 * y, cache


class AlwaysDrops(Dropout):
    def _apply(self, x, predict):
        return super()._apply(x, False)


class Foreign(Module):
    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        return self.inner._apply(x, predict)


def linear(inputs=3, outputs=3):
    return Linear(inputs, outputs)


def conv(*args, **options):
    return Conv2d(3, 3, *(args or (3,)), **options)


REFUSED = {
    "activation": (
        lambda: Sequential(linear(), ReLU(), BatchNorm1d(3), Sigmoid(), linear()),
        ["2 cannot", "the layer before it is ReLU()", "the layer after it is Sigmoid()"],
    ),
    "no neighbour": (
        lambda: Sequential(BatchNorm1d(3)),
        ["0 cannot", "there is no layer before it", "there is no layer after it"],
    ),
    "padding": (
        lambda: Sequential(a=Sequential(norm=BatchNorm2d(3)), conv=conv(padding=(0, 1))),
        ["a.norm cannot", "the layer after it is Conv2d(3, 3", "pads with zeros"],
    ),
    "same": (lambda: Sequential(BatchNorm2d(3), conv(padding="same")), ["pads with zeros"]),
    "channels before": (
        lambda: Sequential(linear(), BatchNorm1d(4)),
        ["the layer before it is Linear", "with 3 channels there instead of 4"],
    ),
    "channels after": (
        lambda: Sequential(BatchNorm2d(6), conv(1, groups=3)),
        ["the layer after it is Conv2d", "with 3 channels there instead of 6"],
    ),
    "no running statistics": (
        lambda: Sequential(linear(), BatchNorm1d(3, track_running_stats=False)),
        ["1 keeps no running statistics", "track_running_stats=False"],
    ),
    "flattened": (
        lambda: Sequential(conv(), Flatten(), BatchNorm1d(3)),
        ["2 cannot", "the layer before it is Flatten"],
    ),
    "images before Linear": (lambda: Sequential(BatchNorm2d(3), linear()), ["it is Linear"]),
    "images after Linear": (lambda: Sequential(linear(), BatchNorm2d(3)), ["it is Linear"]),
    "vectors before Conv2d": (lambda: Sequential(BatchNorm1d(3), conv()), ["it is Conv2d"]),
    "three dimensions": (lambda: Sequential(conv(), BatchNorm3d(3)), ["it is Conv2d"]),
    "foreign": (
        lambda: Sequential(a=linear(), inner=Foreign(Sequential(linear(), BatchNorm1d(3)))),
        ["inner is a Foreign", "BatchNorm"],
    ),
    "residual": (
        lambda: Sequential(linear(), Residual(linear(), BatchNorm1d(3))),
        ["1 is a Residual", "BatchNorm"],
    ),
    "residual at the root": (
        lambda: Residual(linear(), BatchNorm1d(3)),
        ["expected a Sequential that runs its layers one after another", "Residual"],
    ),
    "residual beside": (
        lambda: Sequential(Residual(linear()), BatchNorm1d(3)),
        ["1 cannot", "the layer before it is Residual("],
    ),
    "BatchNorm of its own": (lambda: Sequential(linear(), Noisy(3)), ["1 is a Noisy"]),
    "Linear of its own": (lambda: Sequential(Doubled(3, 3), BatchNorm1d(3)), ["it is Doubled"]),
    "Dropout of its own": (
        lambda: Sequential(linear(), AlwaysDrops(), BatchNorm1d(3)),
        ["the layer before it is AlwaysDrops"],
    ),
    "no Sequential": (lambda: linear(), ["expected a Sequential", "Linear"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_is_refused_and_the_message_says_why(case):
    make, fragments = REFUSED[case]
    net = make()
    before = copy.deepcopy(net)
    with pytest.raises(ConfigError, match="fold_batch_norm: ") as caught:
        fold_batch_norm(net)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert repr(net) == repr(before)
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    for key, value in before.state_dict().items():
        assert_same_bits(net.state_dict()[key], value)


def shared(where):
    layer, norm = linear(), BatchNorm1d(3)
    return {
        "norm": lambda: Sequential(layer, norm, ReLU(), linear(), norm),
        "norm without parameters": lambda: Sequential(
            layer, bare := BatchNorm1d(3, affine=False), ReLU(), linear(), bare
        ),
        "linear": lambda: Sequential(layer, norm, ReLU(), layer),
        "block": lambda: Sequential(block := Sequential(layer, norm), ReLU(), block),
        "linear in a foreign module": lambda: Sequential(layer, norm, Foreign(layer)),
    }[where]()


@pytest.mark.parametrize(
    "where", ["norm", "norm without parameters", "linear", "block", "linear in a foreign module"]
)
def test_what_occurs_twice_is_refused(where):
    with pytest.raises(ConfigError, match=r"fold_batch_norm: .* occurs twice"):
        fold_batch_norm(shared(where))


def test_layers_that_occur_twice_beside_no_norm_do_not_matter():
    rng = np.random.default_rng(0)
    twice = linear()
    net = fill(Sequential(twice, ReLU(), twice, ReLU(), linear(), BatchNorm1d(3)).double(), rng)
    folded = fold_batch_norm(net)
    assert folded[0] is folded[2]
    assert_folded(folded, net, rng.normal(size=(2, 3)), 1e-12)


def test_what_cannot_take_it_before_leaves_it_to_what_comes_after():
    """Also where a layer before it occurs twice, or its channels are others."""
    rng = np.random.default_rng(0)
    twice = linear()
    for layers in (
        [twice, ReLU(), twice, BatchNorm1d(3), linear(3, 2)],
        [Sigmoid(), BatchNorm1d(3), Identity(), BatchNorm1d(3), Dropout(), linear(3, 2)],
    ):
        net = fill(Sequential(*layers).double(), rng)
        assert_folded(fold_batch_norm(net), net, rng.normal(size=(2, 3)), 1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@given(rngs(), st.booleans())
def test_what_goes_into_the_convolution_after_it_goes_to_its_group(groups, rng, bias):
    after = Conv2d(4, 8, (2, 3), stride=(1, 2), groups=groups, bias=bias)
    net = fill(Sequential(BatchNorm2d(4), BatchNorm2d(4, affine=False), after).double(), rng)
    assert_folded(fold_batch_norm(net), net, rng.normal(size=(2, 4, 3, 5)), 1e-12)


@pytest.mark.parametrize("padding", [0, "valid", "same", (0, 0)])
def test_a_convolution_of_one_pixel_never_pads(padding):
    rng = np.random.default_rng(0)
    net = fill(Sequential(BatchNorm2d(3), conv(1, padding=padding)).double(), rng)
    assert_folded(fold_batch_norm(net), net, rng.normal(size=(2, 3, 4, 4)), 1e-12)


def test_a_module_of_somebody_elses_without_a_norm_is_left_alone():
    rng = np.random.default_rng(0)
    net = fill(Sequential(linear(), BatchNorm1d(3), Foreign(Residual(linear()))).double(), rng)
    x = rng.normal(size=(2, 3))
    terms = magnitude(Sequential(net[0], net[1], net[2].inner[0]), x)[0]
    expected = net.predict(x)
    assert_within(fold_batch_norm(net).predict(x), expected, 1e-12 * (1 + 2 * terms))


@pytest.mark.parametrize("factor", [1, -1, 2, -2])
def test_weights_up_to_the_largest_number_are_folded_and_no_others(factor):
    largest = np.finfo(np.float32).max
    net = Sequential(Linear(1, 1, bias=False), BatchNorm1d(1, eps=0)).eval()
    net[0].weight.data[...] = factor
    net[1].weight.data[...] = largest
    if abs(factor) == 1:
        assert fold_batch_norm(net)[0].weight.data == factor * largest
    else:
        with pytest.raises(ConfigError, match="the result exceeds the range of float32"):
            fold_batch_norm(net)
