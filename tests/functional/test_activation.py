"""ReLU and the logistic sigmoid against torch and against float64."""

import math

import numpy as np
import pytest
import torch
from helpers import (
    LAYOUTS,
    array,
    assert_same_bits,
    assert_within,
    by_both_engines,
    layouts,
    numerical_gradient,
    quantum,
    rngs,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npbn
from npbn.errors import DtypeError
from npbn.functional import (
    relu,
    relu_backward,
    relu_forward,
    sigmoid,
    sigmoid_backward,
    sigmoid_forward,
)

pytestmark = pytest.mark.usefixtures("engine")

DTYPES = ["float16", "float32", "float64"]
PAIRS = {"relu": (relu_forward, relu_backward), "sigmoid": (sigmoid_forward, sigmoid_backward)}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def problems(draw, dtype="float64"):
    """Draw an input of any values at all, and an upstream gradient of its shape."""
    x = draw(hnp.arrays(dtype, SHAPES, elements=st.floats(width=np.finfo(dtype).bits)))
    return x, np.asarray(draw(rngs()).normal(size=x.shape)).astype(dtype)


def forward_backward(name, x, grad):
    forward, backward = PAIRS[name]
    y, cache = forward(x)
    return y, backward(grad, cache)


def by_torch(name, x, grad, dtype=None):
    leaf = tensor(x, dtype, requires_grad=True)
    y = getattr(torch, name)(leaf)
    y.backward(tensor(grad, dtype))
    return array(y), array(leaf.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_relu_and_its_gradient_are_exactly_torchs(dtype, data):
    x, grad = data.draw(problems(dtype))
    for mine, theirs in zip(
        forward_backward("relu", x, grad), by_torch("relu", x, grad), strict=True
    ):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_sigmoid_and_its_gradient_are_torchs(dtype, data):
    """Five rounded operations each, and exp of up to 3 units: 8 eps.

    torch takes the gradient from 1 − σ(x), which loses eps of σ(x), not of the product, and
    its 1 / (1 + exp(−x)) is 0 where exp(−x) is infinite, below the smallest normal number.
    """
    x, grad = data.draw(problems(dtype))
    y, grad_input = forward_backward("sigmoid", x, grad)
    torch_y, torch_grad_input = by_torch("sigmoid", x, grad, "float64")
    lost = max(4 * quantum(dtype), np.finfo(np.float64).smallest_normal)
    bound = 8 * np.finfo(dtype).eps * np.nan_to_num(torch_y) + lost
    assert y.dtype == grad_input.dtype == dtype
    assert_within(y, torch_y, bound, "output")
    assert_within(grad_input, torch_grad_input, bound * np.abs(grad) + lost, "grad_input")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_infinities_and_zeros_propagate_as_in_torch(name, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    grad = np.array([2.0, -3.0, 5.0, -7.0, 11.0], dtype)
    for mine, theirs in zip(forward_backward(name, x, grad), by_torch(name, x, grad), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@given(data=st.data())
def test_sigmoids_gradient_keeps_its_digits_where_sigmoid_rounds_to_one(dtype, data):
    x = data.draw(hnp.arrays(dtype, SHAPES, elements=st.floats(-80, 80, width=16)))
    grad = np.asarray(data.draw(rngs()).normal(size=x.shape)).astype(dtype)
    truth = grad.astype(np.float64) / (2 + 2 * np.cosh(x.astype(np.float64)))
    bound = 8 * np.finfo(dtype).eps * np.abs(truth) + quantum(dtype) * (2 + np.abs(grad))
    assert_within(forward_backward("sigmoid", x, grad)[1], truth, bound)


@given(st.floats(-700, 700))
def test_sigmoid_is_accurate_in_both_tails(x):
    truth = 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
    assert_within(sigmoid(np.array([x])), [truth], 8 * np.finfo(np.float64).eps * truth)


@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data())
def test_gradients_are_the_central_differences_of_the_output(name, data):
    """h² / 6 of a third derivative below 1/8, and eps / h of the sum: under 1e-10 of the terms."""
    positive = st.floats(0.01, 5)  # away from the kink
    values = hnp.arrays(np.float64, SHAPES, elements=positive | positive.map(lambda v: -v))
    x, step = data.draw(values), 1e-5
    grad = np.asarray(data.draw(rngs()).normal(size=x.shape))
    forward = PAIRS[name][0]
    differences = numerical_gradient(lambda v: float((grad * forward(v)[0]).sum()), x, step)
    bound = 1e-9 * (np.abs(grad) * (1 + np.abs(x))).sum()
    assert_within(forward_backward(name, x, grad)[1], differences, bound)


@pytest.mark.parametrize("name", PAIRS)
@given(layout=layouts, rng=rngs())
def test_any_memory_layout_gives_the_same_numbers(name, layout, rng):
    x, grad = rng.normal(size=(2, 3, 4, 5))
    expected = forward_backward(name, x, grad)
    actual = forward_backward(name, LAYOUTS[layout](x), LAYOUTS[layout](grad))
    for mine, theirs in zip(actual, expected, strict=True):  # vector loops may round otherwise
        assert_within(mine, theirs, 8 * np.finfo(np.float64).eps * np.abs(theirs))


@pytest.mark.parametrize("name", PAIRS)
@given(problem=problems())
def test_kernels_change_none_of_their_inputs_and_share_no_memory_with_them(name, problem):
    before = [a.copy() for a in problem]
    results = forward_backward(name, *problem)
    for after, old in zip(problem, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(a, b) for a in results for b in problem)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(name, dtype, data):
    x, _ = data.draw(problems(dtype))
    with np.errstate(all="raise"):
        forward_backward(name, x, x)


@pytest.mark.parametrize("name", PAIRS)
def test_an_array_without_axes_gives_an_array(name):
    for result in forward_backward(name, np.array(0.5), np.array(2.0)):
        assert isinstance(result, np.ndarray)


@pytest.mark.parametrize("function", [relu, sigmoid])
@pytest.mark.parametrize("dtype", [int, bool, complex, object])
def test_other_dtypes_are_refused(function, dtype):
    with pytest.raises(DtypeError) as caught:
        function(np.ones(3, dtype))
    assert str(np.dtype(dtype)) in str(caught.value)
    assert "float32" in str(caught.value)


# -- the engines ----------------------------------------------------------------------------------


def relu_by(forward, backward, x, grad):
    """Return output and gradient of relu, each by an engine."""
    with npbn.using_engine(forward):
        y, cache = relu_forward(x)
    with npbn.using_engine(backward):
        return y, relu_backward(grad, cache)


@by_both_engines
@pytest.mark.parametrize("dtype", DTYPES)
@given(layout=layouts, data=st.data())
def test_the_engines_give_the_same_relu_and_take_each_others_caches(dtype, layout, data):
    """Nothing is rounded: they are equal, whatever the layouts of input and gradient."""
    x, grad = data.draw(problems(dtype).filter(lambda problem: problem[0].ndim))
    expected = relu_by("numpy", "numpy", x, grad)
    grad_layout = data.draw(st.sampled_from([layout, *LAYOUTS]))
    x, grad = LAYOUTS[layout](x), LAYOUTS[grad_layout](grad)
    for engines in (("numba", "numba"), ("numpy", "numba"), ("numba", "numpy")):
        for mine, theirs in zip(relu_by(*engines, x, grad), expected, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("size", [1, 2, 1_100, 1_101])
def test_relu_of_a_large_array_is_the_same_for_any_number_of_threads(size, monkeypatch):
    monkeypatch.setattr("npbn.engines.threads.LARGE", 0)
    x, grad = np.random.default_rng(size).normal(size=(2, size)).astype(np.float32)
    threads = npbn.get_num_threads()
    try:
        for count in (1, 2, 3):
            npbn.set_num_threads(count)
            y, grad_input = forward_backward("relu", x, grad)
            np.testing.assert_array_equal(y, np.where(x > 0, x, 0))
            np.testing.assert_array_equal(grad_input, np.where(x > 0, grad, 0))
    finally:
        npbn.set_num_threads(threads)
