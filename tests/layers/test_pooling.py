"""The pooling layers against torch's, and their manners."""

import copy

import numpy as np
import pytest
import torch
from helpers import array, assert_within, rngs, tensor
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import LayerContract, assert_refused, draw

from npbn.errors import DtypeError, ShapeError
from npbn.layers import pooling
from npbn.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

pytestmark = pytest.mark.usefixtures("engine")

# As torch takes them: by position where npbn has the argument there, else by name.
ARGUMENTS = [
    ("MaxPool2d", (2,), {}),
    ("MaxPool2d", ((5, 2), None, 1), {"ceil_mode": True}),
    ("MaxPool2d", (3, (2, 1), (1, 0), (1, 2)), {}),
    ("MaxPool2d", ([2, 2],), {"stride": [1, 2]}),
    ("AvgPool2d", (2,), {}),
    ("AvgPool2d", ((3, 2), (2, 1), (1, 0), True, False), {}),
    ("AvgPool2d", (3, 2, 1, False, True, 4), {}),
    ("AdaptiveAvgPool2d", (3,), {}),
    ("AdaptiveAvgPool2d", ((None, 2),), {}),
    ("AdaptiveAvgPool2d", ((9, 1),), {}),
]
LAYERS = {"MaxPool2d": (2,), "AvgPool2d": (2,), "AdaptiveAvgPool2d": (2,)}


def make(name, *arguments, **options):
    return getattr(pooling, name)(*arguments, **options)


@pytest.mark.parametrize(("name", "arguments", "options"), ARGUMENTS)
@given(rng=rngs(), batch=st.integers(0, 3), unbatched=st.booleans(), training=st.booleans())
def test_layers_are_torchs(name, arguments, options, rng, batch, unbatched, training):
    """Windows of up to 24 elements below 10 in size, in float64: 24 eps · 10 is under 1e-13."""
    mine = make(name, *arguments, **options).train(training)
    theirs = getattr(torch.nn, name)(*arguments, **options).train(training)
    assert repr(mine) == repr(theirs)
    x = rng.normal(size=(3, 6, 7) if unbatched else (batch, 3, 6, 7))
    leaf = tensor(x, requires_grad=True)
    torch_y = theirs(leaf)
    grad = rng.normal(size=torch_y.shape)
    torch_y.backward(tensor(grad))
    for result in (mine(x), mine.predict(x)):
        assert_within(result, array(torch_y), 1e-13, "output")
    assert_within(mine.backward(grad), array(leaf.grad), 1e-13, "grad_input")


@pytest.mark.parametrize(("name", "arguments", "options"), ARGUMENTS)
def test_attributes_are_kept_as_given_and_there_is_no_state(name, arguments, options):
    mine, theirs = make(name, *arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    attributes = {key: value for key, value in vars(mine).items() if key != "_pending"}
    assert attributes
    assert attributes == {key: getattr(theirs, key) for key in attributes}
    assert mine.state_dict() == {}
    assert list(mine.parameters()) == []


def test_ceil_mode_of_max_pooling_goes_by_name_only():
    """Where torch has it by position, `return_indices` comes first."""
    with pytest.raises(TypeError):
        MaxPool2d(2, 2, 0, 1, True)


@pytest.mark.parametrize("layer", [MaxPool2d, AvgPool2d])
@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ({"kernel_size": 0}, ["kernel_size", "at least 1", "got 0"]),
        ({"kernel_size": (2, -1)}, ["kernel_size", "at least 1", "(2, -1)"]),
        ({"kernel_size": (2, 2, 2)}, ["kernel_size", "(2, 2, 2)"]),
        ({"kernel_size": 2.0}, ["kernel_size", "2.0"]),
        ({"kernel_size": None}, ["kernel_size", "None"]),
        ({"kernel_size": 2, "stride": 0}, ["stride", "at least 1", "got 0"]),
        ({"kernel_size": 2, "stride": (1, -2)}, ["stride", "(1, -2)"]),
        ({"kernel_size": 2, "padding": -1}, ["padding", "at least 0", "got -1"]),
        ({"kernel_size": 3, "padding": 2}, ["half the kernel_size 3", "got 2"]),
        ({"kernel_size": (4, 1), "padding": (2, 1)}, ["half the kernel_size (4, 1)", "(2, 1)"]),
    ],
)
def test_windows_that_torch_refuses_are_refused_at_construction(layer, arguments, fragments):
    refused_at_construction(layer, arguments, fragments)


@pytest.mark.parametrize(
    ("layer", "arguments", "fragments"),
    [
        (MaxPool2d, {"kernel_size": 2, "dilation": 0}, ["dilation", "at least 1", "got 0"]),
        # Of half the extent, 5, it would be less; of half the kernel it is not.
        (MaxPool2d, {"kernel_size": 3, "padding": 2, "dilation": 2}, ["half the kernel_size 3"]),
        (AvgPool2d, {"kernel_size": 2, "divisor_override": 0}, ["divisor_override", "got 0"]),
        (AvgPool2d, {"kernel_size": 2, "divisor_override": 1.5}, ["divisor_override", "1.5"]),
        (AdaptiveAvgPool2d, {"output_size": -1}, ["output_size", "at least 0", "got -1"]),
        (AdaptiveAvgPool2d, {"output_size": (2,)}, ["output_size", "got (2,)"]),
        (AdaptiveAvgPool2d, {"output_size": None}, ["output_size", "got None"]),
        (AdaptiveAvgPool2d, {"output_size": (2.0, 2)}, ["output_size", "got (2.0, 2)"]),
    ],
)
def test_other_arguments_that_torch_refuses_are_refused_too(layer, arguments, fragments):
    refused_at_construction(layer, arguments, fragments)


def refused_at_construction(layer, arguments, fragments):
    """Assert that npbn refuses at construction what torch refuses, there or when called."""
    name = layer.__name__
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        getattr(torch.nn, name)(**arguments)(torch.zeros(1, 9, 9, requires_grad=True))
    with pytest.raises(ValueError, match=f"^{name}: expected ") as caught:
        layer(**arguments)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bad", "error", "fragments"),
    [
        (np.ones((4, 4)), ShapeError, ["(N, C, H, W) or (C, H, W)", "got (4, 4)"]),
        (np.ones((1, 1, 1, 4, 4)), ShapeError, ["(N, C, H, W)", "got (1, 1, 1, 4, 4)"]),
        (np.ones((2, 3, 0, 4)), ShapeError, ["got (2, 3, 0, 4)"]),
        (np.ones((1, 4, 4), int), DtypeError, ["float32", "int64"]),
        (np.ones((1, 4, 4), complex), DtypeError, ["float32", "complex128"]),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_changed(name, training, bad, error, fragments):
    layer = make(name, *LAYERS[name]).train(training)
    assert_refused(layer, draw(0, (2, 3, 4, 4)), bad, error, [f"{name}: expected", *fragments])
    with pytest.raises(error):
        copy.deepcopy(layer).predict(bad)


@pytest.mark.parametrize("name", ["MaxPool2d", "AvgPool2d"])
def test_an_input_that_no_window_fits_into_is_refused_and_nothing_is_changed(name):
    fragments = [name, "extent 3", "got 2 with padding 0 and 0"]
    assert_refused(make(name, 3), draw(0, (1, 4, 4)), draw(0, (1, 4, 2)), ShapeError, fragments)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("MaxPool2d", "padding", 9),
        ("AvgPool2d", "stride", 0),
        ("AvgPool2d", "divisor_override", 0),
        ("AdaptiveAvgPool2d", "output_size", (1, -1)),
    ],
)
def test_an_attribute_assigned_later_takes_effect_and_is_checked(name, attribute, value):
    layer, x = make(name, *LAYERS[name]), draw(0, (1, 4, 4))
    layer(x)
    setattr(layer, attribute, value)
    with pytest.raises(ValueError, match=f"{name}: .*{attribute}"):
        layer(x)


class TestMaxPool2dContract(LayerContract):
    shape = (3, 2, 5, 6)

    def make(self):
        return MaxPool2d(3, 2, 1)


class TestMaxPool2dContractOfOneImage(LayerContract):
    shape = (3, 4, 6)

    def make(self):
        return MaxPool2d(2)


class TestAvgPool2dContract(LayerContract):
    shape = (3, 2, 5, 6)

    def make(self):
        return AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)


class TestAdaptiveAvgPool2dContract(LayerContract):
    shape = (3, 2, 5, 6)

    def make(self):
        return AdaptiveAvgPool2d((3, None))


class TestGlobalAveragePoolingContract(LayerContract):
    shape = (3, 2, 5, 6)

    def make(self):
        return AdaptiveAvgPool2d(1)
