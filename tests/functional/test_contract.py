"""The accuracy contract, under either engine, against arithmetic that is exact or nearly so.

The oracle computes float32 in float64 with sums that are rounded once, float64 in decimals;
:mod:`npbn.testing.tolerances` says what is allowed and why.
"""

from dataclasses import replace

import numpy as np
import pytest
from contract_cases import assert_contract, made, problem
from hard_data import DATA, constant, far, grid, in_order, nearly_constant, outlier, shapes
from helpers import along, assert_within, exact_statistics, rngs
from hypothesis import given
from hypothesis import strategies as st

from npbn.functional import measure

pytestmark = pytest.mark.usefixtures("engine")
EPS = float(np.finfo(np.float32).eps)


def kinds(*data):
    return pytest.mark.parametrize("data", data, ids=lambda data: data.__name__)


modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@modes
@kinds(*DATA)
@given(rng=rngs(), shape=shapes(), momentum=st.sampled_from([0.1, 0.5, 1.0]))
def test_float32_is_within_1_eps_and_gradients_within_4(data, training, rng, shape, momentum):
    eps = float(rng.choice([1e-5, 1e-3, 1.0]))
    assert_contract(*problem(rng, data(rng, shape), "float32", training, eps, momentum))


@modes
@kinds(far, outlier, grid)
@given(rng=rngs(), shape=shapes())
def test_float16_is_float32_rounded_once_more(data, training, rng, shape):
    x = np.clip(data(rng, shape), -6e4, 6e4)
    assert_contract(*problem(rng, x, "float16", training, far_weights=False))


@modes
@kinds(far, nearly_constant, outlier, in_order, grid)
@given(rng=rngs(), shape=shapes(most=70))
def test_float64_is_within_what_a_sum_of_float64_may_lose(data, training, rng, shape):
    assert_contract(*problem(rng, data(rng, shape), "float64", training))


@kinds(*DATA)
@given(rng=rngs(), shape=shapes())
def test_the_batch_mean_is_within_1_eps_and_the_variance_within_2(data, rng, shape):
    """float64 inside: 2⁻²⁹ of an eps would do for few values, were the exact ones not rounded."""
    x = data(rng, shape).astype(np.float32)
    statistics = measure(x)
    count, mean, m2 = exact_statistics(x)
    std, var = np.sqrt(m2 / count), m2 / count
    assert statistics.count == count
    assert_within(statistics.mean, mean, EPS * np.maximum(np.abs(mean), std), "mean")
    assert_within(statistics.var, var, 2 * EPS * var, "var")


@given(rng=rngs(), shape=shapes(), dtype=st.sampled_from(["float16", "float32", "float64"]))
def test_a_constant_channel_is_exactly_its_bias_and_gives_its_weight_no_gradient(rng, shape, dtype):
    setup, step = problem(rng, constant(rng, shape), dtype)
    assert_constant(setup, step)


@modes
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False), rng=rngs())
def test_any_number_alone_in_its_channel_is_exactly_the_bias(training, value, rng):
    x = np.full((rng.integers(2, 300), 2), value, np.float32)
    setup, step = problem(rng, x, "float32", training)
    setup = replace(setup, running_mean=x[0].copy())
    assert_constant(setup, step)


def assert_constant(setup, step):
    layer = made(setup, step)
    y = layer.forward(step.x, step.training)
    _, grad_weight, _ = layer.backward(step.grad_output)
    np.testing.assert_array_equal(y, np.broadcast_to(along(setup.bias, y), y.shape).astype(y.dtype))
    np.testing.assert_array_equal(grad_weight, 0)


@modes
@given(rng=rngs(), half=st.integers(1, 300), exponent=st.floats(5, 20))
def test_huge_weights_where_values_are_at_the_mean(training, rng, half, exponent):
    """Integers on either side of their mean, which itself is one of the values."""
    side = rng.integers(0, 1000, (half, 3))
    x = rng.permuted(np.concatenate([side, -side, np.zeros((3, 3))])) + 1000.0 * rng.integers(5)
    setup, step = problem(rng, x, "float32", training)
    mean = exact_statistics(x)[1].astype(np.float32)
    weight = setup.weight * np.float32(10.0**exponent)
    setup = replace(setup, weight=weight, running_mean=mean)
    assert_contract(setup, step)


@given(
    rng=rngs(),
    shape=shapes(most=70),
    dtype=st.sampled_from(["float32", "float64"]),
    momentum=st.sampled_from([0.0, 0.9, -0.5, 1.5, None]),
)
def test_running_statistics_with_any_momentum(rng, shape, dtype, momentum):
    setup, step = problem(rng, far(rng, shape), dtype)
    assert_contract(replace(setup, momentum=momentum, num_batches_tracked=rng.integers(5)), step)
