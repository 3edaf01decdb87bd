"""Dropout: its product is torch's, its draws are its own."""

import numpy as np
import pytest
import torch
from helpers import LAYOUTS, SPECIALS, array, assert_same_bits, layouts, rngs, sprinkle, tensor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npbn.errors import DtypeError
from npbn.functional.dropout import dropout, dropout_backward, dropout_forward

DTYPES = ["float16", "float32", "float64"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
PROBABILITIES = st.sampled_from([0, 1, 0.5]) | st.floats(0, 1)


def forward(x, p, seed=0):
    return dropout_forward(x, p, np.random.default_rng(seed))


@pytest.mark.parametrize("dtype", DTYPES)
@given(rng=rngs(), shape=SHAPES, p=st.floats(0, 0.99))
def test_an_element_is_dropped_where_the_uniform_draw_is_below_p(dtype, rng, shape, p):
    x = np.asarray(rng.normal(size=shape)).astype(dtype)
    y, mask = forward(x, p)
    kept = np.random.default_rng(0).random(shape) >= p
    scale = np.asarray(1 / (1 - p)).astype(dtype)
    assert_same_bits(mask, np.where(kept, scale, 0).astype(dtype))
    assert_same_bits(y, np.asarray(x * mask))


def test_a_scale_beyond_half_precision_is_infinite_and_what_is_dropped_still_zero():
    """As torch's, which divides by 1 − p."""
    torch.manual_seed(0)
    p, x = 1 - 2**-18, np.ones(2**19, np.float16)
    for y in (forward(x, p)[0], array(torch.nn.functional.dropout(tensor(x), p))):
        np.testing.assert_array_equal(np.unique(y), [0, np.inf])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_p_and_the_mean_stays(p):
    """Five standard deviations of a binomial share of 1e5; the seed is fixed."""
    y = dropout(np.ones(100_000), p, rng=np.random.default_rng(3))
    sigma = np.sqrt(p * (1 - p) / y.size)
    assert abs((y == 0).mean() - p) < 5 * sigma
    assert abs(y.mean() - 1) < 5 * sigma / (1 - p)


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), rng=rngs())
def test_all_kept_and_all_dropped_are_torchs(p, dtype, data, rng):
    """A finite value that is dropped gives 0, an infinite one NaN: torch multiplies by 0."""
    x = data.draw(hnp.arrays(dtype, SHAPES, elements=st.floats(width=np.finfo(dtype).bits)))
    grad = sprinkle(rng, np.asarray(rng.normal(size=x.shape)), SPECIALS, 0.3).astype(dtype)
    leaf = tensor(x, requires_grad=True)
    torch_y = torch.nn.functional.dropout(leaf, p)
    torch_y.backward(tensor(grad))
    y, mask = forward(x, p)
    grad_x = dropout_backward(grad, mask)
    assert y.dtype == grad_x.dtype == dtype
    np.testing.assert_array_equal(y, array(torch_y))
    np.testing.assert_array_equal(grad_x, array(leaf.grad))


@pytest.mark.parametrize("value", SPECIALS)
def test_what_is_dropped_of_infinities_and_nan_is_nan_as_in_torch(value):
    """Of 200 draws, some of each kind on either side."""
    torch.manual_seed(0)
    theirs = set(map(str, array(torch.nn.functional.dropout(torch.full((200,), value), 0.5))))
    y, mask = forward(np.full(200, value, np.float32), 0.5)
    assert set(map(str, y)) == theirs
    grad_x = dropout_backward(np.full(200, value, np.float32), mask)
    for result in (y, grad_x):
        np.testing.assert_array_equal(result, np.where(mask == 0, np.nan, value))


@given(rng=rngs(), shape=SHAPES, p=PROBABILITIES)
def test_the_gradient_is_the_masks_product(rng, shape, p):
    x, grad = map(np.asarray, rng.normal(size=(2, *shape)))
    y, mask = forward(x, p)
    assert_same_bits(dropout_backward(grad, mask), forward(grad, p)[0])
    np.testing.assert_allclose(np.sum(grad * y), np.sum(dropout_backward(grad, mask) * x))


@given(layout=layouts, rng=rngs(), shape=SHAPES.filter(len), p=PROBABILITIES)
def test_one_seed_drops_the_same_elements_of_any_layout_and_dtype(layout, rng, shape, p):
    x = rng.uniform(1, 2, shape)
    y, _ = forward(x, p)
    other_y, mask = forward(LAYOUTS[layout](x), p)
    np.testing.assert_array_equal(other_y, y)
    for dtype in DTYPES:
        np.testing.assert_array_equal(forward(x.astype(dtype), p)[1] == 0, mask == 0)


@given(rng=rngs(), shape=SHAPES, p=PROBABILITIES)
def test_kernels_change_no_input_and_share_no_memory_with_it(rng, shape, p):
    x, grad = map(np.asarray, rng.normal(size=(2, *shape)))
    before = x.copy(), grad.copy()
    y, mask = forward(x, p)
    grad_x = dropout_backward(grad, mask)
    assert_same_bits(x, before[0])
    assert_same_bits(grad, before[1])
    assert not any(np.shares_memory(a, b) for a in (y, grad_x) for b in (x, grad, mask))
    assert all(isinstance(result, np.ndarray) for result in (y, mask, grad_x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0, 0.5, 1 - 2**-20, 1])
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(dtype, p):
    rng = np.random.default_rng(0)
    x = sprinkle(rng, rng.normal(size=(20, 5)), (*SPECIALS, np.finfo(dtype).max), 0.5).astype(dtype)
    with np.errstate(all="raise"):
        dropout_backward(x, forward(x, p)[1])
        dropout(x, p, rng=rng)


def test_the_checked_function_is_the_kernel():
    x = np.arange(7.0) - 3
    found = dropout(x, 0.25, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found, dropout_forward(x, 0.25, np.random.default_rng(0))[0])


def test_evaluation_returns_the_input_and_draws_nothing():
    rng, x = np.random.default_rng(0), np.ones((3, 4))
    assert dropout(x, 0.5, False, rng=rng) is x
    assert rng.random() == np.random.default_rng(0).random()


def test_the_checked_function_draws_from_the_generator_it_is_given_or_a_fresh_one():
    x = np.ones(100)
    rng = np.random.default_rng(0)
    assert_same_bits(dropout(x, 0.3, rng=rng), forward(x, 0.3)[0])
    assert (dropout(x, 0.3, rng=rng) != forward(x, 0.3)[0]).any()
    assert set(dropout(x)) == {0.0, 2.0}
    assert (dropout(x) != dropout(x)).any()


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan, np.inf, "0.5", None])
@pytest.mark.parametrize("training", [True, False])
def test_a_probability_that_is_none_is_refused(p, training):
    with pytest.raises(ValueError, match=r"^dropout: expected a probability p") as caught:
        dropout(np.ones(3), p, training)
    assert repr(p) in str(caught.value)


@pytest.mark.parametrize("dtype", [int, bool, complex, object])
@pytest.mark.parametrize("training", [True, False])
def test_other_dtypes_are_refused_before_anything_is_drawn(dtype, training):
    rng = np.random.default_rng(0)
    with pytest.raises(DtypeError, match=r"dropout: .*float32") as caught:
        dropout(np.ones(3, dtype), 0.5, training, rng=rng)
    assert str(np.dtype(dtype)) in str(caught.value)
    assert rng.random() == np.random.default_rng(0).random()


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"numpy\.random\.Generator"):
        dropout(np.ones(3), rng=0)
