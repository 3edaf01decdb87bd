"""Identity and Flatten."""

import numpy as np
import pytest
import torch
from helpers import array, rngs, tensor
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layer_contract import LayerContract, assert_refused, draw

import npbn
from npbn.errors import ShapeError

DTYPES = ["float16", "float32", "float64", "int64", "uint8"]


@st.composite
def flattenings(draw):
    """Draw a shape, and two of its axes in order, each counted from the front or from the end."""
    min_dims, min_side = draw(st.sampled_from([(2, 2), (0, 1), (0, 0)]))  # mostly with values
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=5, min_side=min_side, max_side=3))
    rank = max(len(shape), 1)
    start, end = sorted(draw(st.tuples(*[st.integers(0, rank - 1)] * 2)))
    return shape, *(axis - draw(st.sampled_from([0, rank])) for axis in (start, end))


@given(rngs(), flattenings())
@example(np.random.default_rng(0), ((2, 3, 4), 1, -1))
@example(np.random.default_rng(0), ((2, 3, 4), -3, -2))
def test_flatten_and_its_gradient_are_torchs(rng, shape_and_axes):
    shape, start_dim, end_dim = shape_and_axes
    layer, theirs = npbn.Flatten(start_dim, end_dim), torch.nn.Flatten(start_dim, end_dim)
    x = np.asarray(rng.normal(size=shape))
    leaf = tensor(x, requires_grad=True)
    y, torch_y = layer(x), theirs(leaf)
    grad = rng.normal(size=y.shape)
    torch_y.backward(tensor(grad))
    np.testing.assert_array_equal(y, array(torch_y))
    np.testing.assert_array_equal(layer.backward(grad), array(leaf.grad))
    assert repr(layer) == repr(theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rng=rngs(), shape=hnp.array_shapes(min_dims=0, min_side=0))
def test_identity_returns_values_and_gradients_as_they_came(dtype, rng, shape):
    layer = npbn.Identity(54, unused=0.1)
    x, grad = np.asarray(rng.integers(0, 99, (2, *shape))).astype(dtype)
    for result, given_array in ((layer(x), x), (layer.backward(grad), grad)):
        np.testing.assert_array_equal(result, given_array)
        assert result.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_flatten_takes_any_dtype_in_either_mode(dtype):
    x = draw(0, (4, 3, 2)).astype(dtype)
    for mode in (True, False):
        y = npbn.Flatten().train(mode)(x)
        np.testing.assert_array_equal(y, x.reshape(4, 6))
        assert y.dtype == dtype


def test_flatten_takes_no_copy_where_a_view_is_possible():
    x = draw(0, (4, 3, 2))
    assert np.shares_memory(npbn.Flatten()(x), x)


def test_repr_is_torchs_and_there_is_no_state():
    assert repr(npbn.Identity()) == repr(torch.nn.Identity())
    assert repr(npbn.Flatten(0, 2)) == repr(torch.nn.Flatten(0, 2))
    assert npbn.Flatten().state_dict() == npbn.Identity().state_dict() == {}


@pytest.mark.parametrize(
    ("axes", "bad", "fragments"),
    [
        ((1, -1), np.ones(3), ["start_dim=1", "(3,)"]),
        ((0, 2), np.ones((3, 4)), ["end_dim=2", "(3, 4)"]),
        ((-3, -1), np.ones((3, 4)), ["start_dim=-3", "(3, 4)"]),
        ((-1, 1), np.ones((3, 4, 5)), ["start_dim comes after end_dim", "(3, 4, 5)"]),
    ],
)
def test_axes_that_an_input_does_not_have_are_refused_and_nothing_is_changed(axes, bad, fragments):
    good = np.ones((2, 3)) if axes == (-1, 1) else np.ones((2, 3, 4))
    assert_refused(npbn.Flatten(*axes), good, bad, ShapeError, ["Flatten", *fragments])


class TestFlattenContract(LayerContract):
    shape = (5, 2, 3)

    def make(self):
        return npbn.Flatten()


class TestIdentityContract(LayerContract):
    shape = (5, 3)

    def make(self):
        return npbn.Identity()
