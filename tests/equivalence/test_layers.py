"""npbn's BatchNorm layers are torch's: outputs, gradients, running statistics, step by step.

Each test draws a layer (BatchNorm1d, BatchNorm2d or BatchNorm3d), options (eps, momentum with None,
affine, bias, track_running_stats), numbers, shapes and up to four steps in any order of training
and evaluation, runs both layers side by side and compares every result after every step. They may
differ by what rounding may do on both sides: the bounds are derived at
:class:`helpers.BatchNormBounds`, none is tuned. Upstream gradients are drawn; gradients of
parameters accumulate over the steps.

The dtypes: npbn in float64 against torch in float64, float32 against float32, float32 against
torch in float64, and on either side float16 input with float32 parameters.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_twins import assert_equal, steps

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.parametrize(
        ("dtype", "torch_dtype"),
        [
            pytest.param("float64", "float64", id="float64"),
            pytest.param("float32", "float32", id="float32"),
            pytest.param("float32", "float64", id="float32 against float64"),
            pytest.param("float16", "float32", id="float16 with float32 parameters"),
        ],
    ),
]


@given(data=st.data())
def test_every_result_of_any_steps_is_torchs(dtype, torch_dtype, data):
    assert_equal(data.draw(steps(dtype)), dtype, torch_dtype)


@given(data=st.data())
def test_every_result_of_a_layer_that_has_everything_is_torchs(dtype, torch_dtype, data):
    has = {"affine": True, "bias": True, "track_running_stats": True}
    assert_equal(data.draw(steps(dtype, **has)), dtype, torch_dtype)


@given(data=st.data())
def test_every_result_of_evaluation_after_training_is_torchs(dtype, torch_dtype, data):
    assert_equal(data.draw(steps(dtype, modes=[True, False, False])), dtype, torch_dtype)


@given(data=st.data())
def test_the_average_of_all_batches_with_momentum_none_is_torchs(dtype, torch_dtype, data):
    averaged = {"momentum": None, "track_running_stats": True}
    assert_equal(data.draw(steps(dtype, [True] * 4, **averaged)), dtype, torch_dtype)


@pytest.mark.slow
@given(data=st.data())
def test_every_result_of_many_samples_and_positions_is_torchs(dtype, torch_dtype, data):
    assert_equal(data.draw(steps(dtype, [True, False], largest=(40, 9))), dtype, torch_dtype)
