"""The convolution of images against torch, against differences, and within its memory."""

import numpy as np
import pytest
import torch
from convolution_problems import ALL_LAYOUTS, DEFAULTS, EPS, NAMES, Problem, problems, whole_numbers
from helpers import (
    DTYPE_PAIRS,
    SPECIALS,
    array,
    assert_same_bits,
    assert_within,
    numerical_gradient,
    quantum,
    rngs,
    sprinkle,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

from npbn.functional import conv2d, conv2d_backward, convolution

# What torch says of an odd total of padding, and pytest would raise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("engine"),
]
BLOCKS = {"row by row": 1, "some rows or samples": 3000, "as measured": convolution.PATCH_BYTES}


@pytest.fixture(scope="module", params=BLOCKS)
def blocks(request):
    """Convolve in blocks of so many bytes: whatever the blocks, the numbers are to be the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "PATCH_BYTES", BLOCKS[request.param])
        yield


in_blocks = pytest.mark.usefixtures("blocks")


def assert_solved(problem, expected, bounds):
    for name, mine, theirs, bound in zip(NAMES, problem.solve(), expected, bounds, strict=True):
        assert mine.dtype == problem.x.dtype, name
        assert_within(mine, theirs, bound, name)


# -- numbers ------------------------------------------------------------------------------------


@in_blocks
@pytest.mark.parametrize(("dtype", "torch_dtype"), DTYPE_PAIRS)
@given(data=st.data())
def test_output_and_gradients_are_torchs(dtype, torch_dtype, data):
    problem = data.draw(problems(dtype, layouts=ALL_LAYOUTS))
    expected = problem.solve_by_torch(torch_dtype)
    assert_solved(problem, expected, problem.bounds(np.finfo(dtype).eps))


@in_blocks
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(data=st.data())
def test_of_whole_numbers_output_and_gradients_are_exact_and_rounded_once(dtype, data):
    """A sum of some hundred terms up to 9 is exact in float32 already, in whatever order."""
    problem = data.draw(problems(dtype, whole_numbers, ALL_LAYOUTS))
    for name, mine, exact in zip(NAMES, problem.solve(), problem.solve_by_torch(), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, exact.astype(dtype), name)


@in_blocks
@given(problems("float16"))
def test_float16_is_torchs_float32_to_the_last_digit(problem):
    """Half a unit of the last digit for the rounding, eps / 2, beside what float32 loses."""
    expected = problem.solve_by_torch("float32")
    bounds = problem.bounds(np.finfo(np.float32).eps)
    eps = np.finfo(np.float16).eps
    allowed = [
        bound + (np.abs(theirs) + bound) * eps / 2 + quantum(np.float16)
        for bound, theirs in zip(bounds, expected, strict=True)
    ]
    assert_solved(problem, expected, allowed)


def test_float16_sums_of_many_terms_are_not_stuck_at_2048():
    ones = [np.ones(shape, np.float16) for shape in ((1, 4096, 1, 1), (2, 4096, 1, 1))]
    assert (conv2d(*ones) == 4096).all()
    image, weight = (np.ones((1, 1, size, size), np.float16) for size in (64, 1))
    grads = Problem(image, weight, None, image, DEFAULTS).solve()[2:]
    assert [float(grad.sum()) for grad in grads] == [4096, 4096]


@in_blocks
@given(problems(), rngs())
def test_nan_and_infinite_values_propagate_as_in_torchs_float64(problem, rng):
    """Padding is zeros that are multiplied: under an infinite weight it gives NaN.

    torch's float32 does so for some sizes of batch and kernel, and for others skips the padding.
    """
    bounds = problem.bounds(EPS)
    share = rng.choice([0.02, 0.15])
    problem = problem.map(lambda a: sprinkle(rng, a, share=share * rng.integers(2)))
    assert_solved(problem, problem.solve_by_torch(), bounds)


@in_blocks
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_what_is_not_finite_reaches_only_what_depends_on_it(special, where):
    """In float32 too, and with no padding, where torch knows no two ways."""
    options = {**DEFAULTS, "dilation": (2, 1)}
    shapes = {"x": (17, 2, 7, 5), "weight": (2, 2, 2, 3), "bias": (2,), "grad": (17, 2, 5, 3)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    arrays[where][1, 1, -1, 0] = special  # what the windows of the row above must not meet
    problem = Problem(**arrays, options=options)
    for mine, expected in zip(problem.solve(), problem.solve_by_torch("float32"), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert any(np.isfinite(mine).any() for mine in problem.solve())


@in_blocks
@given(problems(), rngs())
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(problem, rng):
    extremes = (*SPECIALS, 1e308, -1e308, 1e-308)
    problem = problem.map(lambda a: sprinkle(rng, a, extremes, 0.5))
    with np.errstate(all="raise"):
        problem.solve()
        conv2d(problem.x, problem.weight, problem.bias, **problem.options)
        for dtype in (np.float32, np.float16):
            with np.errstate(over="ignore", under="ignore"):  # of the conversion alone
                smaller = problem.map(lambda a, dtype=dtype: a.astype(dtype))
            smaller.solve()


# -- gradients ----------------------------------------------------------------------------------


@given(problems(largest=2))
def test_gradients_are_the_central_differences_of_the_output(problem):
    """The function is linear in each argument: only rounding, eps / h of the terms, is left."""
    step = 1e-3
    total = (np.abs(problem.grad) * problem.bounds(1.0)[0]).sum()
    gradients = problem.solve()[1:]
    for name, gradient in zip(("x", "weight", "bias"), gradients, strict=True):
        value = getattr(problem, name)
        if value is None:
            continue

        def loss(value, name=name):
            return float((problem.grad * problem._replace(**{name: value}).forward()[0]).sum())

        bound = 4 * EPS / step * total
        assert_within(gradient, numerical_gradient(loss, value, step), bound, name)


@in_blocks
@given(problems())
def test_backward_is_the_transpose_of_forward(problem):
    """<g, W x> = <Wᵀ g, x>, and likewise of the weight.

    Each side is two sums, of no more terms than its arrays have, of products that are the same.
    """
    problem = problem._replace(bias=None)
    y, grad_x, grad_weight, _ = problem.solve()
    terms = (np.abs(problem.grad) * problem.terms()[0]).sum()
    bound = 2 * (problem.grad.size + problem.x.size + problem.weight.size + 4) * EPS * terms
    product = (problem.grad * y).sum()
    assert_within((grad_x * problem.x).sum(), product, bound, "x")
    assert_within((grad_weight * problem.weight).sum(), product, bound, "weight")


@in_blocks
@given(problems())
def test_without_input_grad_only_that_gradient_is_missing(problem):
    _, cache = problem.forward()
    grad_input, *actual = conv2d_backward(problem.grad, cache, input_grad=False)
    assert grad_input is None
    for mine, full in zip(actual, conv2d_backward(problem.grad, cache)[1:], strict=True):
        assert_same_bits(mine, full)


@in_blocks
@given(problems())
def test_without_bias_grad_only_that_gradient_is_missing(problem):
    _, cache = problem.forward()
    *actual, grad_bias = conv2d_backward(problem.grad, cache, bias_grad=False)
    assert grad_bias is None
    for mine, full in zip(actual, conv2d_backward(problem.grad, cache)[:2], strict=True):
        assert_same_bits(mine, full)


# -- arrays -------------------------------------------------------------------------------------


@in_blocks
@given(problems(layouts=ALL_LAYOUTS))
def test_kernels_change_none_of_their_inputs(problem):
    before = problem.map(np.copy)
    results = problem.solve()
    for after, old in zip(problem[:4], before[:4], strict=True):
        assert_same_bits(after, old)
    arrays = [a for a in problem[:4] if a is not None]
    assert not any(np.shares_memory(a, b) for a in results for b in arrays)


@given(problems(values=whole_numbers))
def test_broadcast_views_give_the_numbers_of_their_copies(problem):
    views = problem.map(lambda a: np.broadcast_to(a.reshape(-1)[:1].sum(), a.shape))
    for mine, expected in zip(views.solve(), views.map(np.copy).solve(), strict=True):
        np.testing.assert_array_equal(mine, expected)


@given(problems(values=whole_numbers))
def test_the_function_takes_torchs_arguments_and_images_without_a_batch(problem):
    x, weight, bias, _, options = problem
    y = conv2d(x, weight, bias, *options.values())
    theirs = torch.nn.functional.conv2d(tensor(x), tensor(weight), tensor(bias), **options)
    assert_same_bits(y + 0.0, array(theirs) + 0.0)  # a zero may have either sign
    for image, expected in zip(x, y, strict=True):
        single = conv2d(image, weight, bias, **options)
        np.testing.assert_array_equal(single, expected)
