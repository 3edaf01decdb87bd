"""Patches are taken in blocks: within their bytes, and the same numbers whatever the blocks."""

import tracemalloc

import numpy as np
import pytest
from convolution_problems import DEFAULTS, Problem, problems, whole_numbers
from hypothesis import given

from npbn.functional import conv2d_backward, convolution

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
    rng, options = np.random.default_rng(0), {**DEFAULTS, "padding": 1}
    sizes = (5, 2, 6, 5), (3, 2, 3, 3), (3,), (5, 3, 6, 5)
    problem = Problem(*(whole_numbers(rng, size).astype(float) for size in sizes), options)
    whole = problem.solve()
    monkeypatch.setattr(convolution, "PATCH_BYTES", patch_bytes)
    assert [taken[:2] for taken in shapes_of_blocks(problem)] == 2 * shapes
    for mine, expected in zip(problem.solve(), whole, strict=True):
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
def test_memory_beside_the_results_is_that_of_a_few_blocks(
    x_shape, weight_shape, options, monkeypatch
):
    """Forward: a padded image, patches, the last patches, products. Backward: twice as many."""
    # In another order of tests the blocks of the fixture above are still set.
    monkeypatch.setattr(convolution, "PATCH_BYTES", BLOCKS["as measured"])
    x, weight = np.ones(x_shape, np.float32), np.ones(weight_shape, np.float32)
    problem = Problem(x, weight, None, None, {**DEFAULTS, **options})
    problem = problem._replace(grad=problem.forward()[0])
    problem.solve()  # what is compiled at a first call takes memory too
    tracemalloc.start()
    y, cache = problem.forward()
    after_forward = tracemalloc.get_traced_memory()[1]
    results = [y, *conv2d_backward(problem.grad, cache)]
    after_backward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert after_forward < y.nbytes + 4 * convolution.PATCH_BYTES
    assert after_backward < sum(a.nbytes for a in results) + 8 * convolution.PATCH_BYTES
