"""The convolution of images against torch, against differences, and within its memory."""

import tracemalloc
from typing import NamedTuple

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
    numerical_gradient,
    quantum,
    rngs,
    sprinkle,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

from npbn.errors import DtypeError, ShapeError
from npbn.functional import conv2d, conv2d_backward, conv2d_forward, convolution
from npbn.functional.convolution_checks import check_conv2d, check_options

# What torch says of an odd total of padding, and pytest would raise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("engine"),
]

EPS = np.finfo(np.float64).eps
NAMES = "output", "grad_input", "grad_weight", "grad_bias"
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
BLOCKS = {"row by row": 1, "some rows or samples": 3000, "as measured": convolution.PATCH_BYTES}


@pytest.fixture(scope="module", params=BLOCKS)
def blocks(request):
    """Convolve in blocks of so many bytes: whatever the blocks, the numbers are to be the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "PATCH_BYTES", BLOCKS[request.param])
        yield


in_blocks = pytest.mark.usefixtures("blocks")


def _channels_last(x):
    return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1) if x.ndim == 4 else x


ALL_LAYOUTS = {**LAYOUTS, "channels last": _channels_last}


class Problem(NamedTuple):
    """Four arrays, and the options by torch's names."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    grad: np.ndarray
    options: dict

    def map(self, f):
        """Return the problem with `f` of each array."""
        return Problem(*(None if a is None else f(a) for a in self[:4]), self.options)

    @property
    def geometry(self):
        stride, padding, dilation = (self.options[k] for k in ("stride", "padding", "dilation"))
        options = check_options("test", stride, padding, dilation)
        return check_conv2d("test", self.x, self.weight, *options, self.options["groups"])

    def forward(self):
        return conv2d_forward(
            self.x, self.weight, self.bias, *self.geometry, self.options["groups"]
        )

    def solve(self):
        """Return y and the three gradients."""
        y, cache = self.forward()
        return [y, *conv2d_backward(self.grad, cache)]

    def solve_by_torch(self, dtype="float64"):
        """Return torch's y and gradients; of no bias, those of a bias of zeros."""
        bias = np.zeros(len(self.weight)) if self.bias is None else self.bias
        leaves = [
            tensor(np.array(a, order="C"), dtype, requires_grad=True) for a in (self.x, self.weight)
        ]
        leaves.append(tensor(np.array(bias, order="C"), dtype, requires_grad=True))
        y = torch.nn.functional.conv2d(*leaves, **self.options)
        y.backward(tensor(np.array(self.grad, order="C"), dtype))
        return [array(y), *(array(leaf.grad) for leaf in leaves)]

    def terms(self):
        """Return Σ|terms| of y and of the gradients: the same four sums, of magnitudes."""
        return self.map(lambda a: np.abs(a.astype(np.float64))).solve_by_torch()

    def bounds(self, eps):
        """Bound y and the three gradients: a sum of k terms loses at most (k + 2) eps Σ|terms|."""
        outputs, inputs, *kernel = self.weight.shape
        taps, positions = int(np.prod(kernel)), self.grad.size // outputs
        counts = inputs * taps + 1, outputs // self.options["groups"] * taps, positions, positions
        return [(k + 2) * eps * each for k, each in zip(counts, self.terms(), strict=True)]


def pairs(least, most):
    return st.tuples(*[st.integers(least, most)] * 2)


@st.composite
def problems(draw, dtype="float64", values=None, layouts=("contiguous",), largest=4):
    """Draw a problem whose kernel fits at least once; samples may be none.

    `values` draws an array of a shape with a generator: normal ones unless given.
    """
    rng, groups = draw(rngs()), draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kernel, dilation = draw(pairs(1, largest)), draw(pairs(1, 3))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), pairs(0, 3)))
    stride = (1, 1) if padding == "same" else draw(pairs(1, 3))
    around = {"same": (99, 99), "valid": (0, 0)}.get(padding, padding)  # any image will do for same
    least = (max(dilation[i] * (kernel[i] - 1) + 1 - 2 * around[i], 1) for i in range(2))
    image = [size + draw(st.integers(0, largest)) for size in least]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for name, value in options.items():
        if isinstance(value, tuple) and value[0] == value[1]:
            options[name] = value[0]  # one number for both axes
    x = np.empty((draw(st.integers(0, largest)), groups * inputs, *image), dtype)
    weight = np.empty((groups * outputs, inputs, *kernel), dtype)
    problem = Problem(x, weight, None, None, options)
    shape = len(x), len(weight), *(axis.count for axis in problem.geometry)
    values = values or (lambda rng, shape: rng.normal(size=shape) * rng.choice([0.1, 1, 10]))
    x, weight, bias, grad = (
        np.asarray(values(rng, size)).astype(dtype)
        for size in (x.shape, weight.shape, (len(weight),), shape)
    )
    layout = ALL_LAYOUTS[draw(st.sampled_from(sorted(layouts)))]
    return Problem(x, weight, bias if draw(st.booleans()) else None, grad, options).map(layout)


def whole_numbers(rng, shape):
    return rng.integers(-3, 4, shape)


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


# -- blocks and memory --------------------------------------------------------------------------


def shapes_of_blocks(problem):
    """Return samples, rows of output and bytes of all patches that forward and backward take."""
    taken, patches = [], convolution._patches

    def watched(cache, samples, some):
        found = patches(cache, samples, some)
        taken.append((*found.shape[3:5], found.nbytes))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_patches", watched)
        problem.solve()
    return taken


@in_blocks
@given(problem=problems(values=whole_numbers))
def test_a_block_of_patches_keeps_to_its_bytes_or_is_one_row_of_one_sample(problem):
    taken = shapes_of_blocks(problem)
    for samples, rows, size in taken:
        assert size <= convolution.PATCH_BYTES or (samples, rows) == (1, 1)
    # Forward and backward: each row of each sample twice.
    total = sum(samples * rows for samples, rows, _ in taken)
    assert total == 2 * len(problem.x) * problem.grad.shape[2]


ROW = 2 * 3 * 3 * 5 * 8  # bytes: two channels, a 3x3 kernel, 5 columns, float64


@pytest.mark.parametrize(
    ("patch_bytes", "shapes"),
    [
        (ROW - 1, [(1, 1)] * 30),
        (4 * ROW, [(1, 4), (1, 2)] * 5),
        (6 * ROW, [(1, 6)] * 5),
        (12 * ROW, [(2, 6), (2, 6), (1, 6)]),
        (30 * ROW, [(5, 6)]),
    ],
)
def test_every_way_to_split_a_batch_gives_the_same_numbers(monkeypatch, patch_bytes, shapes):
    monkeypatch.setattr(convolution, "PATCH_BYTES", patch_bytes)
    rng, options = np.random.default_rng(0), {**DEFAULTS, "padding": 1}
    sizes = (5, 2, 6, 5), (3, 2, 3, 3), (3,), (5, 3, 6, 5)
    problem = Problem(*(whole_numbers(rng, size).astype(float) for size in sizes), options)
    assert [taken[:2] for taken in shapes_of_blocks(problem)] == 2 * shapes
    for mine, expected in zip(problem.solve(), problem.solve_by_torch(), strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options"),
    [
        ((64, 8, 32, 32), (8, 8, 3, 3), {"padding": 1}),  # the usual: patches are nine images
        ((64, 1, 32, 32), (32, 1, 1, 1), {}),  # the output is larger than the patches
        ((64, 32, 32, 32), (32, 32, 1, 1), {"stride": 2}),  # so are the images
        ((64, 128, 3, 3), (128, 128, 3, 3), {}),  # and each sample's product for the weight
    ],
)
def test_memory_beside_the_results_is_that_of_a_few_blocks(x_shape, weight_shape, options):
    """Forward: a padded image, patches, the last patches, products. Backward: twice as many."""
    x, weight = np.ones(x_shape, np.float32), np.ones(weight_shape, np.float32)
    problem = Problem(x, weight, None, None, {**DEFAULTS, **options})
    problem = problem._replace(grad=problem.forward()[0])
    tracemalloc.start()
    y, cache = problem.forward()
    after_forward = tracemalloc.get_traced_memory()[1]
    results = [y, *conv2d_backward(problem.grad, cache)]
    after_backward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert after_forward < y.nbytes + 4 * convolution.PATCH_BYTES
    assert after_backward < sum(a.nbytes for a in results) + 8 * convolution.PATCH_BYTES


# -- arguments ----------------------------------------------------------------------------------

X, W = np.ones((2, 4, 5, 5)), np.ones((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("x", "weight", "bias", "options", "error", "fragments"),
    [
        (np.ones((5, 5)), W, None, {}, ShapeError, ["(N, 4, H, W)", "(4, H, W)", "(5, 5)"]),
        (X[None], W, None, {}, ShapeError, ["(N, 4, H, W)", "(1, 2, 4, 5, 5)"]),
        (X[:, :3], W, None, {}, ShapeError, ["(N, 4, H, W)", "(2, 3, 5, 5)"]),
        (X, W, None, {"groups": 2}, ShapeError, ["(N, 8, H, W)", "(2, 4, 5, 5)"]),
        (X[:, :, :0], W, None, {"padding": 3}, ShapeError, ["at least 1", "(2, 4, 0, 5)"]),
        (X[..., :0], W, None, {"padding": 3}, ShapeError, ["at least 1", "(2, 4, 5, 0)"]),
        (X[:, :, :2], W, None, {}, ShapeError, ["extent 3", "got 2"]),
        (X[..., :2], W, None, {}, ShapeError, ["extent 3", "got 2"]),
        (X, W, None, {"dilation": 3}, ShapeError, ["extent 7", "got 5"]),
        (X, W, None, {"dilation": (1, 4), "padding": 1}, ShapeError, ["extent 9", "1 and 1"]),
        (X, np.ones(4), None, {}, ShapeError, ["weight", "(O, C / groups, kh, kw)", "(4,)"]),
        (X, W[:, :, :0], None, {}, ShapeError, ["weight", "at least 1", "(6, 4, 0, 3)"]),
        (X, W[..., :0], None, {}, ShapeError, ["weight", "at least 1", "(6, 4, 3, 0)"]),
        (X, W[:0], None, {}, ShapeError, ["weight", "at least 1", "(0, 4, 3, 3)"]),
        (X, W, np.ones(4), {}, ShapeError, ["bias", "(6,)", "(4,)"]),
        (X, W, np.ones((6, 1)), {}, ShapeError, ["bias", "(6,)", "(6, 1)"]),
        (X.astype(int), W, None, {}, DtypeError, ["float", "int64"]),
        (X.astype("f4"), W, None, {}, DtypeError, ["float64", "float32"]),
        (X.astype("f2"), W.astype("f4"), None, {}, DtypeError, ["float32", "float16"]),
        (X, W.astype(int), None, {}, DtypeError, ["int64"]),
        (X, W, np.ones(6, "f4"), {}, DtypeError, ["bias", "float32"]),
        (X, W, None, {"stride": 0}, ValueError, ["stride", "got 0"]),
        (X, W, None, {"stride": (1, -1)}, ValueError, ["stride", "(1, -1)"]),
        (X, W, None, {"stride": (1, 1, 1)}, ValueError, ["stride", "(1, 1, 1)"]),
        (X, W, None, {"stride": 1.0}, ValueError, ["stride", "1.0"]),
        (X, W, None, {"dilation": 0}, ValueError, ["dilation", "got 0"]),
        (X, W, None, {"padding": -1}, ValueError, ["padding", "got -1"]),
        (X, W, None, {"padding": (0, -1)}, ValueError, ["padding", "(0, -1)"]),
        (X, W, None, {"padding": "full"}, ValueError, ["'same'", "'valid'", "'full'"]),
        (X, W, None, {"padding": "same", "stride": 2}, ValueError, ["stride 1", "(2, 2)"]),
        (X, W, None, {"padding": "same", "stride": (1, 2)}, ValueError, ["stride 1", "(1, 2)"]),
        (X, W, None, {"groups": 0}, ValueError, ["groups", "got 0"]),
        (X, W, None, {"groups": 4}, ValueError, ["groups", "6 outputs", "got 4"]),
        (X, W, None, {"groups": 1.0}, ValueError, ["groups", "1.0"]),
    ],
)
def test_wrong_arguments_are_refused(x, weight, bias, options, error, fragments):
    with pytest.raises(error) as caught:
        conv2d(x, weight, bias, **options)
    assert all(fragment in str(caught.value) for fragment in ["conv2d", *fragments])
