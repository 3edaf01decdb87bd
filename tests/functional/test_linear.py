"""The affine map against torch and against differences."""

import numpy as np
import pytest
import torch
from helpers import (
    DTYPE_PAIRS,
    LAYOUTS,
    array,
    assert_same_bits,
    assert_within,
    layouts,
    numerical_gradient,
    quantum,
    rngs,
    sprinkle,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npbn.errors import DtypeError, ShapeError
from npbn.functional import linear, linear_backward, linear_forward


@st.composite
def problems(draw, dtype="float64", min_side=0):
    """Draw x of shape (*, in), weight, bias or None, and an upstream gradient; empty ones too."""
    rng = draw(rngs())
    leading = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=min_side, max_side=5))
    features, outputs = draw(st.tuples(*[st.integers(min_side, 6)] * 2))
    shapes = (*leading, features), (outputs, features), (outputs,), (*leading, outputs)
    x, weight, bias, grad = (
        (rng.normal(size=shape) * rng.choice([0.1, 1, 10])).astype(dtype) for shape in shapes
    )
    return x, weight, bias if draw(st.booleans()) else None, grad


def bounds(x, weight, bias, grad, eps):
    """Bound y and the three gradients: a sum of k terms loses at most (k + 2) eps Σ|terms|."""
    x, weight, grad = (np.abs(a.astype(np.float64)) for a in (x, weight, grad))
    bias = 0 if bias is None else np.abs(bias.astype(np.float64))
    rows = x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    grad_rows = grad.reshape(len(rows), grad.shape[-1])
    return [
        (count + 2) * eps * terms
        for count, terms in (
            (weight.shape[1] + 1, x @ weight.T + bias),
            (len(weight), grad @ weight),
            (len(rows), grad_rows.T @ rows),
            (len(rows), grad_rows.sum(axis=0)),
        )
    ]


NAMES = "output", "grad_input", "grad_weight", "grad_bias"


def by_npbn(x, weight, bias, grad):
    y, cache = linear_forward(x, weight, bias)
    return [y, *linear_backward(grad, cache)][: 3 if bias is None else 4]


def assert_all_within(mine, theirs, allowed, dtype="float64"):
    """Compare the output and all gradients: three of them, or two without a bias."""
    assert len(mine) in (3, 4)
    parts = NAMES[: len(mine)], mine, theirs, allowed[: len(mine)]
    for name, found, expected, bound in zip(*parts, strict=True):
        assert found.dtype == dtype
        assert_within(found, expected, bound, name)


def by_torch(x, weight, bias, grad, dtype):
    leaves = [tensor(a, dtype, requires_grad=True) for a in (x, weight, bias)]
    y = torch.nn.functional.linear(*leaves)
    y.backward(tensor(grad, dtype))
    return [array(y), *(array(leaf.grad) for leaf in leaves if leaf is not None)]


@pytest.mark.parametrize(("dtype", "torch_dtype"), DTYPE_PAIRS)
@given(data=st.data())
def test_output_and_gradients_are_torchs(dtype, torch_dtype, data):
    problem = data.draw(problems(dtype))
    allowed = bounds(*problem, np.finfo(dtype).eps)
    assert_all_within(by_npbn(*problem), by_torch(*problem, torch_dtype), allowed, dtype)


@given(problems("float16"))
def test_float16_loses_no_more_than_its_terms_allow(problem):
    allowed = bounds(*problem, np.finfo(np.float16).eps)
    allowed = [bound + quantum(np.float16) for bound in allowed]
    assert_all_within(by_npbn(*problem), by_torch(*problem, "float64"), allowed, "float16")


@given(rngs(), problems())
def test_nan_and_infinite_values_propagate_as_in_torch(rng, problem):
    allowed = bounds(*problem, np.finfo(np.float64).eps)
    x, weight, bias, grad = problem
    problem = sprinkle(rng, x), weight, bias, sprinkle(rng, grad)
    assert_all_within(by_npbn(*problem), by_torch(*problem, "float64"), allowed)


@given(problems(min_side=1))
def test_gradients_are_the_central_differences_of_the_output(problem):
    """The function is linear in each argument: only rounding, eps / h of the terms, is left."""
    x, weight, bias, grad = problem
    step = 1e-3
    total = (np.abs(grad) * bounds(*problem, 1.0)[0]).sum()
    bound = 4 * np.finfo(np.float64).eps / step * total
    gradients = linear_backward(grad, linear_forward(x, weight, bias)[1])
    for i, gradient in enumerate(gradients[: 2 if bias is None else 3]):

        def loss(value, i=i):
            arguments = [x, weight, bias]
            arguments[i] = value
            return float((grad * linear_forward(*arguments)[0]).sum())

        assert_within(gradient, numerical_gradient(loss, (x, weight, bias)[i], step), bound)


@given(layout=layouts, problem=problems(min_side=1))
def test_any_memory_layout_gives_the_same_numbers(layout, problem):
    laid_out = [None if a is None else LAYOUTS[layout](a) for a in problem]
    allowed = bounds(*problem, np.finfo(np.float64).eps)
    assert_all_within(by_npbn(*laid_out), by_npbn(*problem), allowed)


@given(problems())
def test_broadcast_views_give_the_same_numbers_as_their_copies(problem):
    x, weight, bias, grad = problem
    views = [np.broadcast_to(a.reshape(-1)[:1].sum(), a.shape) for a in (x, weight, grad)]
    copies = [a.copy() for a in views]
    allowed = bounds(copies[0], copies[1], bias, copies[2], np.finfo(np.float64).eps)
    mine = by_npbn(views[0], views[1], bias, views[2])
    expected = by_npbn(copies[0], copies[1], bias, copies[2])
    assert_all_within(mine, expected, allowed)


@given(problems())
def test_kernels_change_none_of_their_inputs(problem):
    before = [None if a is None else a.copy() for a in problem]
    results = by_npbn(*problem)
    for after, old in zip(problem, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(a, b) for a in results for b in problem if b is not None)


@given(problems())
def test_without_input_grad_only_that_gradient_is_missing(problem):
    x, weight, bias, grad = problem
    cache = linear_forward(x, weight, bias)[1]
    grad_input, *actual = linear_backward(grad, cache, input_grad=False)
    assert grad_input is None
    for mine, full in zip(actual, linear_backward(grad, cache)[1:], strict=True):
        assert_same_bits(mine, full)


@given(rngs(), problems())
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(rng, problem):
    extremes = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-308)
    problem = [None if a is None else sprinkle(rng, a, extremes, 0.5) for a in problem]
    with np.errstate(all="raise"):
        by_npbn(*problem)


def test_the_float16_bias_gradient_of_a_large_batch_is_not_stuck_at_2048():
    x, grad = np.ones((4096, 2), np.float16), np.ones((4096, 3), np.float16)
    _, cache = linear_forward(x, np.ones((3, 2), np.float16))
    _, grad_weight, grad_bias = linear_backward(grad, cache)
    np.testing.assert_array_equal(grad_weight, 4096)
    np.testing.assert_array_equal(grad_bias, 4096)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "fragments"),
    [
        (np.ones(()), np.ones((2, 3)), None, ShapeError, ["(*, 3)", "()"]),
        (np.ones((4, 2)), np.ones((2, 3)), None, ShapeError, ["(*, 3)", "(4, 2)"]),
        (np.ones(3), np.ones(3), None, ShapeError, ["(out_features, in_features)", "(3,)"]),
        (np.ones(3), np.ones((2, 3, 3)), None, ShapeError, ["out_features, in_", "(2, 3, 3)"]),
        (np.ones(3), np.ones((2, 3)), np.ones(3), ShapeError, ["bias", "(2,)", "(3,)"]),
        (np.ones(3, int), np.ones((2, 3)), None, DtypeError, ["float", "int64"]),
        (np.ones(3, "f4"), np.ones((2, 3)), None, DtypeError, ["float64", "float32"]),
        (np.ones(3), np.ones((2, 3)), np.ones(2, "f4"), DtypeError, ["bias", "float32"]),
    ],
)
def test_wrong_arguments_are_refused(x, weight, bias, error, fragments):
    with pytest.raises(error) as caught:
        linear(x, weight, bias)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
