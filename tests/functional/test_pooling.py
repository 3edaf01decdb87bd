"""Pooling against torch, and against its own definition where torch has none."""

import itertools

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
    quantum,
    rngs,
    sprinkle,
    tensor,
)
from hypothesis import example, given
from hypothesis import strategies as st
from pooling_problems import (
    AVERAGES,
    CHECKED,
    DRAWN,
    DTYPES,
    PAIRS,
    adaptive_forward,
    avg_forward,
    both_ways,
    by_torch,
    drawn,
    max_forward,
    pools,
    roundings,
)

from npbn.errors import DtypeError, ShapeError
from npbn.functional.avg_pooling import adaptive_avg_pool2d, avg_pool2d
from npbn.functional.max_pooling import max_pool2d

pytestmark = pytest.mark.usefixtures("engine")


# -- max --------------------------------------------------------------------------------------


def tied(rng, shape):
    return rng.integers(-1, 2, shape).astype(float)


def with_specials(rng, shape):
    return sprinkle(rng, tied(rng, shape), SPECIALS, rng.choice([0.1, 0.4]))


def low(rng, shape):
    """Windows of −inf alone, some with a NaN or two."""
    return sprinkle(rng, np.full(shape, -np.inf), (np.nan, -3.0), 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", [tied, with_specials, low])
@given(rng=rngs(), pool=pools(dilated=True))
@example(np.random.default_rng(0), ((2, 9, 9), {"kernel_size": 2}))
@example(np.random.default_rng(0), ((2, 9, 9), {"kernel_size": 3, "stride": 2, "padding": 1}))
@example(np.random.default_rng(0), ((2, 9, 9), {"kernel_size": 3, "stride": 1, "dilation": 2}))
def test_max_pooling_and_its_gradient_are_exactly_torchs(dtype, values, rng, pool):
    """Small integers as gradients: their sums are exact in any order."""
    shape, options = pool
    x = values(rng, shape).astype(dtype)
    grad = rng.integers(-9, 10, max_pool2d(x, **options).shape).astype(dtype)
    y, _, grad_x = both_ways("max_pool2d", x, options, grad)
    torch_y, torch_grad_x = by_torch("max_pool2d", x, grad, options)
    assert y.dtype == grad_x.dtype == dtype
    np.testing.assert_array_equal(y, torch_y)
    np.testing.assert_array_equal(grad_x, torch_grad_x)


@given(rng=rngs(), pool=pools(dilated=True))
def test_infinite_and_nan_gradients_reach_only_where_the_maximum_was(rng, pool):
    shape, options = pool
    x = with_specials(rng, shape)
    grad = sprinkle(rng, tied(rng, max_pool2d(x, **options).shape), SPECIALS, 0.4)
    _, _, grad_x = both_ways("max_pool2d", x, options, grad)
    np.testing.assert_array_equal(grad_x, by_torch("max_pool2d", x, grad, options)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@given(rng=rngs(), pool=pools(dilated=True))
def test_gradients_of_windows_that_overlap_add_up_to_rounding(dtype, rng, pool):
    """At most 25 windows share an element: 25 eps of the terms, torch's float64 has none."""
    shape, options = pool
    x = drawn(rng, shape, dtype)
    _, grad, grad_x = both_ways("max_pool2d", x, options, rng=rng)
    expected = by_torch("max_pool2d", x, grad, options, "float64")[1]
    terms = by_torch("max_pool2d", x, np.abs(grad), options, "float64")[1]
    # float16 is summed in float32
    assert_within(grad_x, expected, (1 if dtype == "float16" else 25) * np.finfo(dtype).eps * terms)


@pytest.mark.parametrize("axes", [(1, 1), (1, 0), (0, 1)])
def test_a_window_without_an_element_is_minus_infinity_and_its_gradient_goes_nowhere(axes):
    """torch writes that gradient to an element outside the image, so that it is no reference."""
    kernel, dilation = (tuple(1 + n * axis for axis in axes) for n in (1, 2))
    x, options = np.ones((1, 2, 2)), {"kernel_size": kernel, "padding": axes, "dilation": dilation}
    shape = (1, *(2 - axis for axis in axes))
    y, _, grad_x = both_ways("max_pool2d", x, options, np.full(shape, 7.0))
    np.testing.assert_array_equal(y, np.full(shape, -np.inf))
    np.testing.assert_array_equal(y, torch.nn.functional.max_pool2d(tensor(x), **options))
    np.testing.assert_array_equal(grad_x, np.zeros((1, 2, 2)))


@pytest.mark.parametrize("axis", [0, 1])
def test_of_minus_infinity_alone_the_first_element_in_the_window_has_the_gradient(axis):
    """All windows of up to five taps along an axis, those without an element left out."""
    pair = (lambda one, other: (one, other)) if axis else (lambda one, other: (other, one))
    upto5 = range(1, 6)
    for size, kernel, stride, dilation in itertools.product(upto5, upto5, (1, 2), (1, 2)):
        for padding in range(kernel // 2 + 1):
            starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
            windows = [range(s, s + kernel * dilation, dilation) for s in starts]
            filled = [any(0 <= i < size for i in window) for window in windows]
            if not (windows and all(filled)):
                continue
            x = np.full((1, *pair(1, size)), -np.inf)
            options = {"kernel_size": pair(1, kernel), "stride": pair(1, stride)}
            options |= {"padding": pair(0, padding), "dilation": pair(1, dilation)}
            grad = np.arange(1.0, len(windows) + 1).reshape(1, *pair(1, len(windows)))
            grad_x = both_ways("max_pool2d", x, options, grad)[2]
            assert_same_bits(grad_x, by_torch("max_pool2d", x, grad, options)[1], options)


# -- averages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize(("dtype", "torch_dtype"), [*DTYPE_PAIRS, ("float16", "float64")])
@given(data=st.data(), rng=rngs(), scatter=st.booleans())
def test_averages_and_their_gradients_are_torchs(name, dtype, torch_dtype, data, rng, scatter):
    """To k eps of the terms, of k operations on either side; in float16 one, but for underflow."""
    shape, options = data.draw(DRAWN[name])
    x = drawn(rng, shape, dtype)
    terms_x = np.abs(x)
    if scatter:
        x = sprinkle(rng, x, SPECIALS, 0.05)
    y, grad, _ = both_ways(name, x, options, rng=rng)
    grad = sprinkle(rng, grad, SPECIALS, 0.05) if scatter else grad
    grad_x = both_ways(name, x, options, grad)[2]
    assert y.dtype == grad_x.dtype == dtype
    torch_y, torch_grad_x = by_torch(name, x, grad, options, torch_dtype)
    terms_grad = np.abs(np.where(np.isfinite(grad), grad, 0))
    terms = [np.abs(a) for a in by_torch(name, terms_x, terms_grad, options, "float64")]
    unit = (1 if dtype == "float16" else roundings(name, shape, options)) * np.finfo(dtype).eps
    assert_within(y, torch_y, unit * terms[0] + quantum(dtype), "output")
    assert_within(grad_x, torch_grad_x, unit * terms[1] + quantum(dtype), "grad_input")


@pytest.mark.parametrize("name", AVERAGES)
@given(data=st.data(), rng=rngs())
def test_backward_is_the_transpose_of_forward(name, data, rng):
    """⟨g, A x⟩ = ⟨Aᵀ g, x⟩, to (n + k) eps of the terms: n products of k roundings."""
    shape, options = data.draw(DRAWN[name])
    x = drawn(rng, shape, "float64")
    y, grad, grad_x = both_ways(name, x, options, rng=rng)
    terms = np.abs(both_ways(name, np.abs(x), options, np.abs(grad))[2]) * np.abs(x)
    bound = (
        (x.size + y.size + 2 * roundings(name, shape, options))
        * np.finfo("float64").eps
        * terms.sum()
    )
    assert_within((grad * y).sum(), (grad_x * x).sum(), bound)


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        (7, 3, [(0, 3), (2, 5), (4, 7)]),
        (6, 3, [(0, 2), (2, 4), (4, 6)]),
        (2, 3, [(0, 1), (0, 2), (1, 2)]),
        (5, 1, [(0, 5)]),
    ],
)
def test_adaptive_windows_begin_at_the_floor_and_end_at_the_ceiling(size, count, expected):
    ramp = 2.0 ** np.arange(size)  # of which every span has another mean
    y = adaptive_avg_pool2d(ramp.reshape(1, 1, size), (1, count))
    np.testing.assert_allclose(y[0, 0], [ramp[a:b].mean() for a, b in expected], rtol=1e-15)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_divisors_count_padding_but_never_what_ceil_mode_adds(
    padding, ceil_mode, count_include_pad
):
    """Sums of up to 9 ones are exact, whatever divides them."""
    for size in range(3, 9):
        arguments = (3, 2, padding, ceil_mode, count_include_pad)
        expected = torch.nn.functional.avg_pool2d(torch.ones(1, size, 5).double(), *arguments)
        np.testing.assert_array_equal(avg_pool2d(np.ones((1, size, 5)), *arguments), expected)


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_is_summed_in_single(name):
    """Gradients of 3000 windows, or 3000 terms, one by one: float16 would stay at 2048 of them."""
    x = np.ones((1, 1, 5999), np.float16)
    x[0, 0, 2999] = 2  # the maximum of every window
    options = {"kernel_size": (1, 3000), "stride": 1}
    if name == "adaptive_avg_pool2d":
        x, options = np.ones((1, 1, 1), np.float16), {"output_size": (1, 3000)}
    grad = np.ones((1, 1, 3000), np.float16)
    y, _, grad_x = both_ways(name, x, options, grad)
    assert grad_x.max() == (1 if name == "avg_pool2d" else 3000)
    assert name == "max_pool2d" or (y == 1).all()


# -- empty ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_empty_axes_are_refused_where_torch_refuses_them(name):
    """The mean of no elements is NaN, where torch takes it: one adaptive window."""
    for shape in ((2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 3, 0, 4)):
        for size in (1, 2):
            assert_empty_axes(name, np.ones(shape), size)
            assert_empty_axes(name, np.ones(shape[1:]), size)


def assert_empty_axes(name, x, size):
    theirs = getattr(torch.nn.functional, name)
    try:
        expected = array(theirs(tensor(x), size))
    except RuntimeError:
        with pytest.raises(ShapeError, match=name) as caught:
            CHECKED[name](x, size)
        assert str(x.shape) in str(caught.value)
    else:
        y, _, grad_x = both_ways(name, x, one_argument(name, size), np.ones(expected.shape))
        np.testing.assert_array_equal(y, expected)
        assert grad_x.shape == x.shape


def one_argument(name, size):
    return {"output_size" if name == "adaptive_avg_pool2d" else "kernel_size": size}


def test_no_window_at_all_may_be_asked_for():
    x = np.ones((2, 3, 4, 5))
    y, _, grad_x = both_ways(
        "adaptive_avg_pool2d", x, {"output_size": (0, 2)}, np.ones((2, 3, 0, 2))
    )
    assert y.shape == torch.nn.functional.adaptive_avg_pool2d(tensor(x), (0, 2)).shape
    np.testing.assert_array_equal(grad_x, np.zeros(x.shape))


# -- manners ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data(), rng=rngs())
def test_the_checked_function_is_the_kernel(name, data, rng):
    shape, options = data.draw(DRAWN[name])
    x = drawn(rng, shape, "float32")
    assert_same_bits(CHECKED[name](x, *options.values()), PAIRS[name][0](x, **options)[0])


@pytest.mark.parametrize("name", PAIRS)
@given(layout=layouts, data=st.data(), rng=rngs())
def test_any_memory_layout_gives_the_same_numbers(name, layout, data, rng):
    """Sums may be taken in another order."""
    shape, options = data.draw(DRAWN[name])
    x = drawn(rng, shape, "float64")
    y, grad, grad_x = both_ways(name, x, options, rng=rng)
    y2, _, grad_x2 = both_ways(name, LAYOUTS[layout](x), options, LAYOUTS[layout](grad))
    bound = 0
    if name != "max_pool2d":
        terms = np.abs(PAIRS[name][0](np.abs(x), **options)[0])
        bound = roundings(name, shape, options) * np.finfo("float64").eps * terms
    assert_within(y2, y, bound)
    np.testing.assert_array_equal(grad_x2, grad_x)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), rng=rngs())
def test_kernels_warn_of_nothing_change_no_input_and_share_no_memory(name, dtype, data, rng):
    shape, options = data.draw(DRAWN[name])
    huge = (*SPECIALS, np.finfo(dtype).max, np.finfo(dtype).tiny)
    x = sprinkle(rng, drawn(rng, shape, dtype), huge, 0.4)
    grad = sprinkle(rng, both_ways(name, x, options, rng=rng)[1], huge, 0.4)
    before = x.copy(), grad.copy()
    with np.errstate(all="raise"):
        y, _, grad_x = both_ways(name, x, options, grad)
    for after, as_it_was in zip((x, grad), before, strict=True):
        assert_same_bits(after, as_it_was)
    assert not any(np.shares_memory(mine, given) for mine in (y, grad_x) for given in (x, grad))


def test_a_kernel_of_one_returns_a_copy():
    x = np.ones((1, 2, 2))
    for name, options in {
        "max_pool2d": {"kernel_size": 1},
        "avg_pool2d": {"kernel_size": 1},
        "adaptive_avg_pool2d": {"output_size": (None, None)},
    }.items():
        for shape in (x, x[:, :1, :1]):
            y, grad, grad_x = both_ways(name, shape, options, rng=np.random.default_rng(0))
            assert not np.shares_memory(y, x)
            assert not np.shares_memory(grad_x, grad)


def test_caches_keep_the_input_by_reference_or_not_at_all():
    x = np.ones((1, 2, 4, 4))
    y, cache = max_forward(x, 2)
    assert cache.x is x
    assert not any(part is y for part in cache)
    for cache in (avg_forward(x, 2)[1], adaptive_forward(x, 2)[1]):
        assert not any(np.shares_memory(part, x) for part in cache if isinstance(part, np.ndarray))


@pytest.mark.parametrize("function", CHECKED.values())
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128", "object"])
def test_other_dtypes_are_refused(function, dtype):
    with pytest.raises(DtypeError, match=rf"{function.__name__}: .* float32 .* got {dtype}"):
        function(np.ones((1, 4, 4), dtype), 2)


@pytest.mark.parametrize("function", CHECKED.values())
@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (1, 1, 1, 4, 4)])
def test_other_ranks_are_refused(function, shape):
    with pytest.raises(ShapeError) as caught:
        function(np.ones(shape), 2)
    message = f"{function.__name__}: expected input of shape (N, C, H, W) or (C, H, W), got {shape}"
    assert str(caught.value) == message


@pytest.mark.parametrize("function", [max_pool2d, avg_pool2d])
def test_a_kernel_that_does_not_fit_is_refused(function):
    with pytest.raises(ShapeError, match=rf"{function.__name__}: .* extent 5 .* 2 with padding 1"):
        function(np.ones((1, 9, 2)), 5, padding=1)
