"""Batch norm's kernels against torch, against exact statistics, and against differences."""

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
from batch_norm_problems import Problem, problems
from helpers import (
    LAYOUTS,
    SPECIALS,
    along,
    assert_same_bits,
    assert_within,
    batch,
    layouts,
    numerical_gradient,
    rngs,
    sprinkle,
)
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.errors import BatchSizeError, DtypeError, ShapeError
from npbn.functional import (
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    updated_running_statistics,
)

pytestmark = pytest.mark.usefixtures("engine")

EPS32 = np.finfo(np.float32).eps
STATISTICS = "running_mean", "running_var"


@given(problems())
def test_without_input_grad_only_that_gradient_is_missing(p):
    cache = p.forward()[1]
    _, *expected = batch_norm_backward(p.grad, cache)
    grad_input, *actual = batch_norm_backward(p.grad, cache, input_grad=False)
    assert grad_input is None
    for mine, full in zip(actual, expected, strict=True):
        assert_same_bits(mine, full)


@given(problems())
def test_the_output_is_the_normalised_input_scaled_and_shifted(p):
    y, cache = p.forward()
    expected = cache.x_hat.reshape(p.x.shape)
    expected = expected if p.weight is None else expected * along(p.weight, p.x)
    expected = expected if p.bias is None else expected + along(p.bias, p.x)
    assert_within(y, expected, p.bounds().output(), "y")


# -- differences ----------------------------------------------------------------------------------


@given(problems(ranks=(2,)))
def test_gradients_are_the_central_differences_of_the_output(p):
    """With h = 1e-5: 1e-10 × third derivatives, and eps / h = 2e-11 × the sum of the terms.

    Inputs are made of unit scale, with a mean of up to 1 and eps = 0.5, where inv_std and with it
    the third derivatives are at most of the order of 10.
    """
    rng = np.random.default_rng(0)
    p.x, p.eps = batch(rng, p.x.shape, "float32").astype(np.float64), 0.5
    p.x = (p.x - p.x.mean(0)) / p.x.std(0) + 1
    bound = 1e-8 * (1 + np.abs(p.grad).sum() * (1 + p.bounds().x_hat.max()))

    def difference(name):
        def loss(value):
            return float((p.grad * Problem(**{**vars(p), name: value}).forward()[0]).sum())

        return numerical_gradient(loss, getattr(p, name), 1e-5)

    gradients = batch_norm_backward(p.grad, p.forward()[1])
    for name, gradient in zip(("x", "weight", "bias"), gradients, strict=True):
        if getattr(p, name) is not None:
            assert_within(gradient, difference(name), bound, name)


# -- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1e-4, -3.7e-3, 0.011, 7.3])
def test_a_constant_channel_beside_others_gives_exactly_the_bias_and_no_weight_gradient(value):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 90, 3)).astype(np.float32)
    x[:, 1] = value
    weight, bias = rng.normal(size=(2, 3)).astype(np.float32)
    bias *= np.float32(1e-4)  # so that nothing of value · weight / √eps can hide beside it
    y, cache = batch_norm_forward(x, None, None, weight, bias, training=True)
    assert_same_bits(y[:, 1], np.full(90, bias[1]))
    assert batch_norm_backward(grad, cache)[1][1] == 0


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 3, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_gives_empty_output_zero_gradients_and_no_update(shape, training):
    mean, var, weight = np.arange(3.0), np.arange(1.0, 4.0), np.ones(3)
    x = np.zeros(shape)
    assert batch_norm(x, mean, var, weight, weight, training).shape == shape
    np.testing.assert_array_equal(mean, np.arange(3.0))
    np.testing.assert_array_equal(var, np.arange(1.0, 4.0))
    _, cache = batch_norm_forward(x, mean, var, weight, weight, training)
    grad_input, grad_weight, grad_bias = batch_norm_backward(x, cache)
    assert grad_input.shape == shape
    np.testing.assert_array_equal(grad_weight, np.zeros(3))
    np.testing.assert_array_equal(grad_bias, np.zeros(3))


@given(layout=layouts, p=problems())
def test_any_memory_layout_gives_the_same_numbers(layout, p):
    bounds = p.bounds()
    y, cache = p.forward()
    expected = batch_norm_backward(p.grad, cache)
    p.x, grad = LAYOUTS[layout](p.x), LAYOUTS[layout](p.grad)
    other_y, other_cache = p.forward()
    assert other_y.flags.c_contiguous
    assert_within(other_y, y, bounds.output())
    actual = batch_norm_backward(grad, other_cache)
    assert_within(actual[0], expected[0], bounds.grad_input(grad))
    assert_within(actual[1], expected[1], bounds.grad_weight(grad))
    assert_within(actual[2], expected[2], bounds.grad_bias(grad))


@given(problems(), st.integers(0, 1))
def test_broadcast_views_give_the_same_numbers_as_their_copies(p, axis):
    p.x, grad = (np.broadcast_to(np.take(a, [0], axis), a.shape) for a in (p.x, p.grad))
    bounds = p.bounds()
    y, cache = p.forward()
    actual = batch_norm_backward(grad, cache)
    p.x = p.x.copy()
    expected_y, cache = p.forward()
    expected = batch_norm_backward(grad.copy(), cache)
    assert_within(y, expected_y, bounds.output())
    assert_within(actual[0], expected[0], bounds.grad_input(grad))


@given(problems())
def test_kernels_change_none_of_their_inputs(p):
    cache = p.forward()[1]
    given_arrays = [a for a in vars(p).values() if isinstance(a, np.ndarray)]
    given_arrays += [a for a in cache if isinstance(a, np.ndarray)]
    if cache.statistics is not None:
        given_arrays += cache.statistics[1:]
    before = [a.copy() for a in given_arrays]
    results = [p.forward()[0], *batch_norm_backward(p.grad, cache)]
    if cache.statistics is not None and p.running_mean is not None:
        results += updated_running_statistics(p.running_mean, p.running_var, cache.statistics, 0.1)
    for after, old in zip(given_arrays, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(a, b) for a in results for b in given_arrays)


@given(rngs(), problems())
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(rng, p):
    extremes = (*SPECIALS, 1e308, -1e308, 1e-308, 0.0)
    p.x, p.grad = sprinkle(rng, p.x, extremes), sprinkle(rng, p.grad, extremes)
    with np.errstate(all="raise"):
        _, cache = p.forward()
        batch_norm_backward(p.grad, cache)
        batch_norm(p.x, p.running_mean, p.running_var, p.weight, p.bias, p.training)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "fragments"),
    [
        ({"x": np.zeros(3)}, ShapeError, ["(N, C, ...)", "(3,)"]),
        ({"x": np.zeros((2, 4))}, ShapeError, ["(4,)", "(3,)"]),
        ({"weight": np.ones(2)}, ShapeError, ["weight", "(3,)", "(2,)"]),
        ({"bias": np.ones((3, 1))}, ShapeError, ["bias", "(3,)", "(3, 1)"]),
        ({"x": np.zeros((2, 3), int)}, DtypeError, ["float32", "int64"]),
        ({"x": np.zeros((2, 3), np.float32)}, DtypeError, ["float32", "float64"]),
        ({"weight": np.ones(3, np.float32)}, DtypeError, ["weight float32", "float64"]),
        ({"x": np.zeros((1, 3))}, BatchSizeError, ["more than 1 value per channel", "(1, 3)"]),
        ({"weight": [1.0, 1.0, 1.0, 1.0]}, ShapeError, ["weight", "(3,)", "(4,)"]),
        ({"running_mean": [0.0] * 3}, TypeError, ["running_mean", "ndarray", "[0.0, 0.0, 0.0]"]),
        ({"running_var": npbn.Parameter(np.ones(3))}, TypeError, ["running_var", "Parameter"]),
        ({"eps": 0.0}, ValueError, ["eps > 0", "0.0"]),
        ({"eps": np.nan}, ValueError, ["eps > 0", "nan"]),
        ({"eps": -1e-5, "training": False}, ValueError, ["eps >= 0", "-1e-05"]),
        *(
            ({name: None, "training": training}, ValueError, ["go together", "only one of them"])
            for name in ("running_mean", "running_var")
            for training in (True, False)
        ),
        (
            {"running_mean": None, "running_var": None, "training": False},
            ValueError,
            ["running_mean", "running_var", "None"],
        ),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_changed(change, error, fragments):
    refused(change, error, fragments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("missing", [("running_mean",), ("running_var",), STATISTICS])
def test_missing_statistics_of_float32_are_refused_too(missing, training):
    """The usual call has a check of its own."""
    wide = {"x": np.ones((4, 3)), **dict.fromkeys((*STATISTICS, "weight", "bias"), np.ones(3))}
    change = {name: array.astype(np.float32) for name, array in wide.items()}
    change |= {**dict.fromkeys(missing), "training": training}
    if training and missing == STATISTICS:
        batch_norm(**change)  # by the batch alone
    else:
        refused(change, ValueError, ["batch_norm: running_mean and running_var"])


def refused(change, error, fragments):
    arguments = {
        "x": np.random.default_rng(0).normal(size=(4, 3)),
        "running_mean": np.zeros(3),
        "running_var": np.ones(3),
        "weight": np.ones(3),
        "bias": np.zeros(3),
        "training": True,
    } | change
    before = {name: np.copy(value) for name, value in arguments.items()}
    with pytest.raises(error) as caught:
        batch_norm(**arguments)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    for name, value in before.items():
        np.testing.assert_array_equal(arguments[name], value)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scale_and_shift_may_be_parameters_or_lists(dtype):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=shape).astype(dtype) for shape in ((5, 3), 3, 3))
    expected = batch_norm(x, None, None, weight, bias, training=True)
    parameters = batch_norm(x, None, None, *map(npbn.Parameter, (weight, bias)), training=True)
    np.testing.assert_array_equal(parameters, expected)
    if dtype == "f8":
        lists = batch_norm(x, None, None, weight.tolist(), bias.tolist(), training=True)
        np.testing.assert_array_equal(lists, expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.longdouble, Fraction])
@pytest.mark.parametrize("training", [True, False])
def test_eps_is_a_number_of_any_type(kind, training):
    x, eps = np.random.default_rng(0).normal(size=(5, 3)), kind(0.125)
    statistics = [np.zeros(3), np.ones(3)]
    found = batch_norm(x, *statistics, training=training, eps=eps)
    expected = batch_norm(x, np.zeros(3), np.ones(3), training=training, eps=0.125)
    np.testing.assert_array_equal(found, expected)


def test_running_statistics_beyond_float16_are_infinite_without_a_warning():
    x = np.array([[60000.0], [-60000.0]], np.float16)
    mean, var = np.zeros(1, np.float16), np.ones(1, np.float16)
    with np.errstate(all="raise"):
        batch_norm(x, mean, var, training=True)
    assert (mean, var) == (0, np.inf)


def test_the_normalised_input_of_what_is_not_finite_comes_without_a_warning():
    x = np.array([[np.inf], [1.0]])
    with np.errstate(all="raise"):
        assert np.isnan(batch_norm_forward(x, None, None, training=True)[1].x_hat).any()


def test_defaults_are_torchs():
    mine, its = (inspect.signature(f) for f in (batch_norm, torch.nn.functional.batch_norm))
    assert list(mine.parameters)[1:] == list(its.parameters)[1:]
    for name in list(its.parameters)[1:]:
        assert mine.parameters[name].default == its.parameters[name].default, name


def test_gradients_of_scale_and_shift_beyond_the_range_come_without_a_warning():
    x = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    _, cache = batch_norm_forward(x, None, None, training=True)
    huge = np.full_like(x, np.finfo(np.float32).max)
    with np.errstate(all="raise"):
        without = batch_norm_backward(huge, cache, input_grad=False)
        _, weight, bias = batch_norm_backward(huge, cache)
    np.testing.assert_array_equal(without[1:], (weight, bias))
