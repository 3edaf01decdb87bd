"""The engines take the same patches of images and the same maxima, and each other's caches."""

import numpy as np
import pytest
from helpers import SPECIALS, assert_same_bits, rngs, sprinkle
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.engines import numpy_
from npbn.functional import conv2d_backward, conv2d_forward, max_pool2d_backward, max_pool2d_forward
from npbn.functional.windows import windows

numba_ = pytest.importorskip("npbn.engines.numba_", reason="numba is not installed")

DTYPES = ["float32", "float64"]


@st.composite
def axes(draw):
    """Draw windows along an axis, or some of them."""
    kernel, stride, dilation = (draw(st.integers(1, 4)) for _ in range(3))
    before, after = draw(st.integers(0, kernel // 2)), draw(st.integers(0, kernel // 2))
    size = max(dilation * (kernel - 1) + 1 - before - after, 1) + draw(st.integers(0, 9))
    return windows("test", size, kernel, stride, dilation, before, after, draw(st.booleans()))


def images(rng, dtype, samples, channels, rows, columns):
    x = rng.integers(-9, 10, (samples, channels, rows.size, columns.size)).astype(dtype)
    return sprinkle(rng, x, (*SPECIALS, -0.0), rng.choice([0.0, 0.1, 0.6]))


@pytest.mark.parametrize("dtype", DTYPES)
@given(rng=rngs(), rows=axes(), columns=axes(), samples=st.integers(1, 3), data=st.data())
def test_patches_are_the_same_bits_and_so_is_what_is_added_back(
    dtype, rng, rows, columns, samples, data
):
    x = images(rng, dtype, samples, 2, rows, columns)
    first = data.draw(st.integers(0, rows.count - 1))
    some = rows.part(slice(first, data.draw(st.integers(first + 1, rows.count))))
    patches = numba_.gather(x, some, columns)
    assert_same_bits(patches, numpy_.gather(x, some, columns))
    sums = [rng.integers(-9, 10, x.shape).astype(dtype)] * 2  # of whole numbers: exact
    sums = [each.copy() for each in sums]
    for engine, each in zip((numba_, numpy_), sums, strict=True):
        engine.scatter(np.nan_to_num(patches, posinf=5, neginf=-5), some, columns, each)
    np.testing.assert_array_equal(*sums)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rng=rngs(), rows=axes(), columns=axes(), samples=st.integers(0, 3))
def test_maxima_and_their_gradients_are_the_same(dtype, rng, rows, columns, samples):
    x = images(rng, dtype, samples, 2, rows, columns).reshape(-1, rows.size, columns.size)
    y = numba_.max_pool(x, rows, columns)
    np.testing.assert_array_equal(y, numpy_.max_pool(x, rows, columns))
    grad = rng.integers(-9, 10, y.shape).astype(dtype)
    mine, theirs = (e.max_pool_backward(grad, x, rows, columns) for e in (numba_, numpy_))
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("forward", "backward"), [("numpy", "numba"), ("numba", "numpy")])
@pytest.mark.parametrize("dtype", ["float16", *DTYPES])
@given(rng=rngs(), rows=axes(), columns=axes())
def test_backward_takes_the_cache_of_either_engine(forward, backward, dtype, rng, rows, columns):
    """Of whole numbers every sum is exact."""
    x = rng.integers(-3, 4, (2, 2, rows.size, columns.size)).astype(dtype)
    weight = rng.integers(-3, 4, (3, 2, rows.kernel, columns.kernel)).astype(dtype)
    results = {}
    for first, second in ((forward, backward), (backward, backward)):
        with npbn.using_engine(first):
            y, cache = conv2d_forward(x, weight, None, rows, columns)
            pooled, pool_cache = max_pool2d_forward(x, rows, columns)
        grad = np.arange(y.size).reshape(y.shape).astype(dtype) % 5
        pool_grad = np.arange(pooled.size).reshape(pooled.shape).astype(dtype) % 5
        with npbn.using_engine(second):
            pool_gradient = max_pool2d_backward(pool_grad, pool_cache)
            results[first] = [y, pooled, *conv2d_backward(grad, cache), pool_gradient]
    for mine, theirs in zip(*results.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype):
    rng, before = np.random.default_rng(0), npbn.get_num_threads()
    x = rng.normal(size=(3, 40, 45, 46)).astype(dtype)
    conv = npbn.Conv2d(40, 8, 3, padding=1, dtype=dtype, rng=rng)
    grad = rng.normal(size=(3, 8, 45, 46)).astype(dtype)
    rows, columns = windows("", 45, 3, 2, 1, 1, 1), windows("", 46, 2, 1, 1, 0, 0)

    def results():
        conv.zero_grad()
        y, cache = max_pool2d_forward(x, rows, columns)
        found = [y, max_pool2d_backward(np.cos(y), cache), conv(x), conv.backward(grad)]
        return [*found, conv.weight.grad, conv.bias.grad]

    try:
        with npbn.using_engine("numba"):
            npbn.set_num_threads(1)
            alone = results()
            for threads in (2, 3, 50):
                npbn.set_num_threads(threads)
                for mine, expected in zip(results(), alone, strict=True):
                    assert_same_bits(mine, expected)
    finally:
        npbn.set_num_threads(before)
