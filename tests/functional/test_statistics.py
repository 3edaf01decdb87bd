"""Statistics of a batch against exact (rational) arithmetic."""

from functools import reduce

import numpy as np
import pytest
from helpers import (
    assert_same_bits,
    assert_within,
    batch_shapes,
    channels_last,
    exact_statistics,
    quantum,
    rngs,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npbn.functional import BatchStatistics, measure, updated_running_statistics

pytestmark = pytest.mark.usefixtures("engine")

EPS = np.finfo(np.float64).eps
DTYPES = [np.float16, np.float32, np.float64]


def assert_exact(statistics, x, merges=0):
    """Compare with exact arithmetic, for n values of magnitude up to M.

    The first mean is off by n eps M; the second finds that, so that the mean is left with its own
    rounding and n eps of the mean deviation. m2 has n roundings, and deviations that are off by
    n eps² M (from rounding what the first mean missed). A merge rounds both means first, by
    eps M each, which enters m2 with Σ|deviation|.
    """
    count, mean, m2 = exact_statistics(x)
    rows = channels_last(x).astype(np.float64)
    largest = np.abs(rows).max(axis=0)
    spread = np.abs(rows - mean).sum(axis=0)
    n = count + 8 * (1 + merges)
    missed = (n * EPS + 4 * merges) * EPS * largest
    mean_bound = 2 * EPS * (1 + merges) * np.abs(mean) + n * EPS * (spread / count + missed)
    m2_bound = n * EPS * m2 + 2 * missed * spread + n * quantum(np.float64)
    assert statistics.count == count
    assert_within(statistics.mean, mean, mean_bound, "mean")
    assert_within(statistics.m2, m2, m2_bound, "m2")


@given(
    hnp.arrays(
        np.float64,
        batch_shapes((2, 3, 4, 5)),
        elements=st.floats(-1e6, 1e6, allow_subnormal=False),
    )
)
def test_statistics_of_any_values_are_exact_to_rounding(x):
    assert_exact(measure(x), x)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rng=rngs(), shape=batch_shapes((2, 3, 4)), scale=st.sampled_from([1e-6, 1e-3, 1, 1e3]))
def test_every_float_dtype_is_measured_in_float64(dtype, rng, shape, scale):
    x = (rng.normal(1, 1, shape) * scale).astype(dtype)
    statistics = measure(x)
    assert statistics.mean.dtype == statistics.m2.dtype == np.float64
    assert_exact(statistics, x)


@pytest.mark.parametrize("mean", [1e6, -1e9, 1e12])
@given(rng=rngs(), shape=batch_shapes((2, 3)))
def test_a_mean_far_above_the_deviation_costs_no_digits(mean, rng, shape):
    x = rng.normal(mean, 1, shape)
    assert_exact(measure(x), x)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), count=st.integers(1, 300))
def test_equal_values_have_exactly_their_mean_and_m2_zero(dtype, data, count):
    finite = st.floats(width=np.finfo(dtype).bits, allow_nan=False, allow_infinity=False)
    constant = data.draw(finite)
    statistics = measure(np.full((count, 2), constant, dtype))
    np.testing.assert_array_equal(statistics.mean, constant)
    np.testing.assert_array_equal(statistics.m2, 0)


@given(rngs(), batch_shapes((2, 3)), st.integers(1, 5), st.sampled_from([0.0, 3.0, 1e6]))
def test_parts_merged_in_any_split_and_order_are_the_whole(rng, shape, parts, mean):
    x = rng.normal(mean, 1, shape)
    part_of = rng.integers(parts, size=len(x))  # some may be empty
    waiting = [measure(x[part_of == part]) for part in range(parts)]
    while len(waiting) > 1:
        first, second = (waiting.pop(rng.integers(len(waiting))) for _ in range(2))
        waiting.append(first.merge(second))
    assert_exact(waiting[0], x, merges=parts - 1)


@given(rngs(), batch_shapes(), st.booleans())
def test_merging_with_an_empty_batch_changes_nothing(rng, shape, empty_first):
    x = rng.normal(size=shape)
    parts = [measure(x), measure(x[:0])]
    merged = reduce(BatchStatistics.merge, parts[::-1] if empty_first else parts)
    assert merged.count == parts[0].count
    assert_same_bits(merged.moments, parts[0].moments)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2), (4, 3, 0)])
def test_an_empty_batch_has_count_zero_and_finite_statistics(shape):
    statistics = measure(np.zeros(shape))
    assert statistics.count == 0
    for values in (statistics.mean, statistics.m2, statistics.var, statistics.unbiased_var):
        np.testing.assert_array_equal(values, np.zeros(3))


@given(rngs(), batch_shapes())
def test_var_is_biased_and_unbiased_var_is_not(rng, shape):
    """np.var loses (n + 4) eps of a sum of n squares, npbn no more."""
    x = rng.normal(size=shape)
    statistics, rows = measure(x), channels_last(x)
    bound = 2 * (len(rows) + 4) * EPS
    for found, expected in (
        (statistics.var, np.var(rows, axis=0)),
        (statistics.unbiased_var, np.var(rows, axis=0, ddof=1)),
    ):
        assert_within(found, expected, bound * (expected + rows.mean(axis=0) ** 2 * EPS))


def test_var_of_one_value_is_zero_and_not_nan():
    statistics = measure(np.ones((1, 2)))
    np.testing.assert_array_equal([statistics.var, statistics.unbiased_var], np.zeros((2, 2)))
    updated = updated_running_statistics(np.zeros(2), np.ones(2), statistics, 0.25)
    np.testing.assert_array_equal(updated, [[0.25, 0.25], [0.75, 0.75]])


@pytest.mark.parametrize("samples", [0, 3])
def test_updated_running_statistics_are_new_arrays_of_the_dtypes_of_the_old(samples):
    mean, var = np.zeros(2, "f4"), np.full(2, 1e300)
    new = updated_running_statistics(mean, var, measure(np.ones((samples, 2))), 0.5)
    assert [array.dtype for array in new] == [np.float32, np.float64]
    np.testing.assert_array_equal(new[1], var * (0.5 if samples else 1))
    assert not any(np.shares_memory(a, b) for a in new for b in (mean, var))


@given(rngs(), batch_shapes((2, 3)))
def test_measuring_and_merging_change_nothing_and_share_no_memory_with_the_batch(rng, shape):
    x = rng.normal(size=shape)
    before = x.copy()
    statistics = measure(x)
    mean, m2 = statistics.mean.copy(), statistics.m2.copy()
    statistics.merge(measure(x[:1]))
    assert_same_bits(x, before)
    assert_same_bits(statistics.mean, mean)
    assert_same_bits(statistics.m2, m2)
    assert not np.shares_memory(statistics.moments, x)


@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (4, 0), (2, 3, 5)])
def test_the_count_is_a_python_integer(shape):
    count = measure(np.zeros(shape)).count
    assert type(count) is int
    assert count == len(np.zeros(shape)) * int(np.prod(shape[2:])) * bool(shape[1])
