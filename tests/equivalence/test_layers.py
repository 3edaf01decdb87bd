"""npbn's BatchNorm layers are torch's: outputs, gradients, running statistics, step by step.

Each test draws a layer (BatchNorm1d, BatchNorm2d or BatchNorm3d), options (eps, momentum with None,
affine, bias, track_running_stats), numbers, shapes and up to four steps in any order of training
and evaluation, runs both layers side by side and compares one result after every step. They may
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
TRACKING = {"track_running_stats": True}


@given(data=st.data())
def test_the_output_in_training_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype))
    assert_equal("output", drawn, dtype, torch_dtype, training=True)


@given(data=st.data())
def test_the_output_in_evaluation_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, modes=[True, False, False]))
    assert_equal("output", drawn, dtype, torch_dtype, training=False)


@given(data=st.data())
def test_the_gradient_of_the_input_in_training_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype))
    assert_equal("grad_input", drawn, dtype, torch_dtype, training=True)


@given(data=st.data())
def test_the_gradient_of_the_input_in_evaluation_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, modes=[True, False]))
    assert_equal("grad_input", drawn, dtype, torch_dtype, training=False)


@given(data=st.data())
def test_the_gradient_of_the_weight_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, affine=True))
    assert_equal("weight.grad", drawn, dtype, torch_dtype)


@given(data=st.data())
def test_the_gradient_of_the_bias_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, affine=True, bias=True))
    assert_equal("bias.grad", drawn, dtype, torch_dtype)


@given(data=st.data())
def test_the_running_mean_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, **TRACKING))
    assert_equal("running_mean", drawn, dtype, torch_dtype)


@given(data=st.data())
def test_the_running_variance_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, **TRACKING))
    assert_equal("running_var", drawn, dtype, torch_dtype)


@given(data=st.data())
def test_the_average_of_all_batches_with_momentum_none_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, [True] * 4, momentum=None, **TRACKING))
    for name in ("running_mean", "running_var"):
        assert_equal(name, drawn, dtype, torch_dtype)


@given(data=st.data())
def test_the_number_of_batches_tracked_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, **TRACKING))
    assert_equal("num_batches_tracked", drawn, dtype, torch_dtype)


@pytest.mark.slow
@given(data=st.data())
def test_everything_of_many_samples_and_positions_is_torchs(dtype, torch_dtype, data):
    drawn = data.draw(steps(dtype, [True, False], largest=(40, 9)))
    for name in ("output", "grad_input", "weight.grad", "bias.grad", "running_mean", "running_var"):
        assert_equal(name, drawn, dtype, torch_dtype)
