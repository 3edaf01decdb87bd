"""Squared error against torch and against differences."""

import numpy as np
import pytest
import torch
from helpers import (
    DTYPE_PAIRS,
    LAYOUTS,
    SPECIALS,
    array,
    assert_same_bits,
    assert_within,
    layouts,
    numerical_gradient,
    rngs,
    sprinkle,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npbn.errors import DtypeError, ShapeError
from npbn.functional import mse_backward, mse_forward, mse_loss

pytestmark = pytest.mark.usefixtures("engine")

REDUCTIONS = ["mean", "sum", "none"]


@st.composite
def pairs(draw, dtype="float64", min_side=0):
    """Draw x, target and the upstream gradient of the terms, of one shape."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=min_side, max_side=5))
    values = draw(rngs()).normal(draw(st.sampled_from([0, 100])), 1, (3, *shape)).astype(dtype)
    return tuple(np.asarray(value) for value in values)


def mse_by_npbn(x, target, grad, reduction):
    loss, cache = mse_forward(x, target, reduction)
    return loss, mse_backward(cache, grad if reduction == "none" else None)


def mse_by_torch(x, target, grad, reduction, dtype):
    leaf = tensor(x, dtype, requires_grad=True)
    loss = torch.nn.functional.mse_loss(leaf, tensor(target, dtype), reduction=reduction)
    loss.backward(tensor(grad, dtype) if reduction == "none" else None)
    return array(loss), array(leaf.grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("dtype", "torch_dtype"), DTYPE_PAIRS)
@given(data=st.data())
def test_mse_and_its_gradient_are_torchs(reduction, dtype, torch_dtype, data):
    """n terms are summed, each the square of a difference, which is rounded: (n + 4) eps."""
    problem = data.draw(pairs(dtype))
    loss, grad = mse_by_npbn(*problem, reduction)
    torch_loss, torch_grad = mse_by_torch(*problem, reduction, torch_dtype)
    unit = (grad.size + 4) * np.finfo(dtype).eps
    assert loss.dtype == dtype if reduction == "none" else type(loss) is float
    assert grad.dtype == dtype
    assert_within(loss, torch_loss, unit * np.nan_to_num(torch_loss), "loss")
    assert_within(grad, torch_grad, unit * np.abs(torch_grad), "gradient")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(rng=rngs(), problem=pairs())
def test_nan_and_infinite_errors_propagate_as_in_torch(reduction, rng, problem):
    problem = [np.asarray(sprinkle(rng, a)) for a in problem]
    mine, theirs = mse_by_npbn(*problem, reduction), mse_by_torch(*problem, reduction, "float64")
    unit = (mine[1].size + 4) * np.finfo(np.float64).eps
    for actual, expected in zip(mine, theirs, strict=True):
        magnitude = np.abs(np.nan_to_num(expected, posinf=0, neginf=0))
        assert_within(actual, expected, unit * magnitude)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(problem=pairs())
def test_backward_leaves_the_cache_as_it_was(reduction, problem):
    x, target, grad = problem
    cache = mse_forward(x, target, reduction)[1]
    arrays = [field for field in cache if isinstance(field, np.ndarray)]
    before = [a.copy() for a in arrays]
    result = mse_backward(cache, grad if reduction == "none" else None)
    for after, old in zip(arrays, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(result, a) for a in arrays)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(rng=rngs(), data=st.data())
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(reduction, dtype, rng, data):
    extremes = (*SPECIALS, np.finfo(dtype).max, -np.finfo(dtype).max, np.finfo(dtype).tiny)
    problem = [np.asarray(sprinkle(rng, a, extremes, 0.4)) for a in data.draw(pairs(dtype))]
    with np.errstate(all="raise"):
        mse_by_npbn(*problem, reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(problem=pairs(min_side=1))
def test_mse_gradient_is_the_central_differences_of_the_loss(reduction, problem):
    """Differences of a square are exact but for eps / h of the sum of the terms."""
    x, target, grad = problem
    step, upstream = 1e-3, grad if reduction == "none" else 1.0

    def loss(value):
        return float(np.sum(upstream * mse_loss(value, target, reduction)))

    terms = np.sum(np.abs(upstream) * np.square(np.abs(x) + np.abs(target) + 1))
    bound = (x.size + 8) * np.finfo(np.float64).eps / step * terms
    expected = numerical_gradient(loss, x, step)
    assert_within(mse_by_npbn(*problem, reduction)[1], expected, bound)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(problem=pairs())
def test_mse_changes_none_of_its_inputs(reduction, problem):
    before = [a.copy() for a in problem]
    results = mse_by_npbn(*problem, reduction)
    for after, old in zip(problem, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(a, b) for a in results for b in problem)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(layout=layouts, problem=pairs(min_side=1).filter(lambda problem: problem[0].ndim))
def test_mse_is_the_same_in_any_memory_layout(reduction, layout, problem):
    expected = mse_by_npbn(*problem, reduction)
    actual = mse_by_npbn(*map(LAYOUTS[layout], problem), reduction)
    unit = problem[0].size * np.finfo(np.float64).eps
    for mine, theirs in zip(actual, expected, strict=True):
        assert_within(mine, theirs, unit * np.abs(theirs))


def test_an_error_without_axes_gives_arrays():
    for result in mse_by_npbn(np.array(1.0), np.array(3.0), np.array(2.0), "none"):
        assert isinstance(result, np.ndarray)


@pytest.mark.parametrize(
    ("x", "target", "reduction", "error", "fragments"),
    [
        (np.ones((4, 1)), np.ones(4), "mean", ShapeError, ["target", "(4, 1)", "(4,)"]),
        (np.ones(4), np.ones(4, np.float32), "mean", DtypeError, ["float64", "float32"]),
        (np.ones(4), np.ones(4, int), "mean", DtypeError, ["target", "int64"]),
        (np.ones(4, int), np.ones(4), "mean", DtypeError, ["input", "int64"]),
        (np.ones(4), np.ones(4), "max", ValueError, ["'mean', 'sum' or 'none'", "'max'"]),
    ],
)
def test_wrong_arguments_of_mse_are_refused(x, target, reduction, error, fragments):
    with pytest.raises(error) as caught:
        mse_loss(x, target, reduction)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
