"""The two engines agree, mix, and give the same bits for any number of threads."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hard_data import DATA, shapes
from helpers import assert_same_bits, assert_within, exact_statistics, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.functional import (
    batch_norm_backward,
    batch_norm_backward_elemt,
    batch_norm_backward_reduce,
    batch_norm_elemt,
    batch_norm_forward,
    measure,
)
from npbn.testing.tolerances import float64_unit

pytest.importorskip("numba")
from npbn.engines import numpy_

ENGINES = "numpy", "numba"
COMBINATIONS = [
    pytest.param(*names, id=", ".join(names)) for names in itertools.product(ENGINES, repeat=3)
]


def by_each(function, *arguments):
    """Return what both engines return."""
    results = []
    for name in ENGINES:
        with npbn.using_engine(name):
            results.append(function(*arguments))
    return results


def ulps_apart(a, b):
    """Return how many float32 numbers lie between the elements of two arrays, and one."""
    bits = [x.view(np.int32).astype(np.int64) for x in (a, b)]
    ordered = [np.where(x < 0, -(2**31) - x, x) for x in bits]
    return np.abs(ordered[0] - ordered[1])


def statistics_and_gradients(x, grad, weight, bias):
    y, cache = batch_norm_forward(x, None, None, weight, bias, training=True)
    return y, cache.statistics, *batch_norm_backward(grad, cache)


# -- they agree -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
@given(rng=rngs(), shape=shapes())
def test_outputs_of_float32_differ_by_one_ulp_at_most(data, rng, shape):
    """Both round a float64 number once; where the bias cancels they round on a common grid."""
    x = data(rng, shape).astype(np.float32)
    weight, bias = rng.normal(size=(2, shape[1])).astype(np.float32)
    y, other = by_each(lambda: batch_norm_forward(x, None, None, weight, None, True)[0])
    scale = np.abs(y) >= 1e-6  # a value at the mean may be 1e-17 or 0
    assert ulps_apart(y, other)[scale].max(initial=0) <= 1
    y, other = by_each(lambda: batch_norm_forward(x, None, None, weight, bias, True)[0])
    np.testing.assert_allclose(y, other, rtol=0, atol=2.0**-23 * np.abs(y).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
@given(rng=rngs(), shape=shapes(most=130))
def test_batch_statistics_differ_by_what_two_sums_may_lose(data, dtype, rng, shape):
    x = data(rng, shape).astype(dtype)
    mine, other = by_each(measure, x)
    count, mean, m2 = exact_statistics(x)
    # float32 is measured once, about the first value: (n + 1) times the sum is left of it.
    lost = 2 * float64_unit(count) * (count + 1 if dtype == "float32" else 1)
    std = np.sqrt(m2 / count)
    assert mine.count == other.count == count
    assert_within(mine.mean + mine.rest, other.mean + other.rest, lost * std + 1e-15 * abs(mean))
    assert_within(mine.m2, other.m2, lost * m2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(rng=rngs(), shape=shapes(most=130))
def test_gradients_differ_by_one_rounding_and_what_two_sums_may_lose(dtype, rng, shape):
    x, grad = rng.normal(1, 2, (2, *shape)).astype(dtype)
    weight, bias = rng.normal(size=(2, shape[1])).astype(dtype)
    results = by_each(statistics_and_gradients, x, grad, weight, bias)
    count, eps = x.size // shape[1], float(np.finfo(dtype).eps)
    lost = eps + 8 * float64_unit(count)
    largest = np.abs(grad).max() * (1 + np.abs(results[0][0]).max())  # |x̂| <= |y|-like, below 1e3
    std = np.sqrt(results[0][1].var + 1e-5)
    scale = np.abs(weight) / std * (3 + count)
    axes = (1, *(1,) * (len(shape) - 2))
    assert_within(results[0][2], results[1][2], lost * largest * scale.reshape(-1, *axes[1:]))
    for mine, other in zip(results[0][3:], results[1][3:], strict=True):
        assert_within(mine, other, lost * np.abs(grad).sum() * (1 + count))


# -- they mix -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "third"), COMBINATIONS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@given(rng=rngs(), shape=shapes(most=70), dtype=st.sampled_from(["float32", "float64"]))
def test_the_cache_of_one_engine_goes_through_the_others_backward(
    training, first, second, third, rng, shape, dtype
):
    """Statistics, output and gradients by an engine each: the whole is as one engine's."""
    x, grad = rng.normal(1, 2, (2, *shape)).astype(dtype)
    vectors = rng.uniform(0.5, 2, (4, shape[1])).astype(dtype)
    bound = 64 * float64_unit(x.size) + 2 * float(np.finfo(dtype).eps)
    expected_y, cache = batch_norm_forward(x, *vectors, training)
    expected = batch_norm_backward(grad, cache)
    with npbn.using_engine(first):
        statistics = measure(x)
    with npbn.using_engine(second):
        if training:
            y, cache = batch_norm_elemt(x, statistics, *vectors[2:], 1e-5)
        else:
            y, cache = batch_norm_forward(x, *vectors, training)
    with npbn.using_engine(third):
        gradients = batch_norm_backward(grad, cache)
        if training:
            sums = batch_norm_backward_reduce(grad, cache)
            again = batch_norm_backward_elemt(grad, cache, statistics.count, *sums)
            assert_within(again, gradients[0], bound * np.abs(grad).max() * 100)
    assert_within(y, expected_y, bound * (1 + np.abs(expected_y)))
    for mine, theirs in zip(gradients, expected, strict=True):
        assert_within(mine, theirs, bound * np.abs(grad).sum() * 100)


# -- threads --------------------------------------------------------------------------------------


def results_of_a_layer(x, grad):
    layer = npbn.BatchNorm1d(x.shape[1], dtype=x.dtype)
    layer.weight.data[...] = np.linspace(-1, 2, x.shape[1])
    y = layer(x)
    gradients = layer.backward(grad), layer.weight.grad, layer.bias.grad
    statistics = layer.running_mean, layer.running_var
    evaluated = layer.eval()(x), layer.backward(grad)
    return [y, *gradients, *statistics, *evaluated]


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [(700, 30), (101, 3, 40), (40, 1), (3, 1, 9000), (2, 7, 1), (2, 7), (3, 7), (5, 7), (6, 7)],
)
def test_bits_do_not_depend_on_the_number_of_threads(
    engine, threads, monkeypatch, size, dtype, shape
):
    """Small and large are what decides whether there are threads at all."""
    if size == "large":
        monkeypatch.setattr("npbn.engines.threads.LARGE", 0)
        monkeypatch.setattr(numpy_.batch_norm, "BLOCK", 1000)
    x, grad = np.random.default_rng(0).normal(1, 2, (2, *shape)).astype(dtype)
    threads(1)
    expected = results_of_a_layer(x, grad)
    for number in (2, 3, 5):
        threads(number)
        for found, alone in zip(results_of_a_layer(x, grad), expected, strict=True):
            assert_same_bits(found, alone)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_several_python_threads_at_once_get_the_bits_of_one(engine, threads, monkeypatch, dtype):
    monkeypatch.setattr("npbn.engines.threads.LARGE", 0)
    threads(2)
    rng = np.random.default_rng(0)
    batches = [rng.normal(i, 2, (2, 200 + i, 30)).astype(dtype) for i in range(6)]
    expected = [results_of_a_layer(*batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda batch: results_of_a_layer(*batch), batches * 5))
    for results, alone in zip(found, expected * 5, strict=True):
        for mine, theirs in zip(results, alone, strict=True):
            assert_same_bits(mine, theirs)
