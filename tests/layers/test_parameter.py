"""Parameter: its values, its gradient, and what it refuses."""

import numpy as np
import pytest
import torch
from helpers import assert_same_bits

import npbn
from npbn.errors import DtypeError, ShapeError

SHAPE = 2, 3
OTHER_SHAPES = [(), (1,), (3,), (1, 3), (2, 1), (2, 2), (3, 2), (2, 3, 1), (1, 2, 3), (6,), (3, 3)]


@pytest.fixture
def parameter():
    """Return one with values and a gradient to lose."""
    parameter = npbn.Parameter(np.arange(6.0).reshape(SHAPE))
    parameter.grad = np.full(SHAPE, 7.0)
    return parameter


@pytest.mark.parametrize("name", ["data", "grad"])
@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_another_shape_is_refused_even_one_that_could_be_broadcast(parameter, name, shape):
    before = parameter.data.copy(), parameter.grad.copy()
    with pytest.raises(ShapeError) as caught:
        setattr(parameter, name, np.zeros(shape))
    assert str(caught.value) == f"Parameter.{name}: expected shape (2, 3), got {shape}"
    assert_same_bits(parameter.data, before[0])
    assert_same_bits(parameter.grad, before[1])


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_a_gradient_of_another_shape_is_not_accumulated(shape):
    parameter = npbn.Parameter(np.zeros(SHAPE))
    with pytest.raises(ShapeError):
        parameter.accumulate(np.zeros(shape))
    assert parameter.grad is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, int, complex])
def test_a_gradient_of_another_dtype_is_refused(parameter, dtype):
    with pytest.raises(DtypeError, match=r"Parameter\.grad: expected dtype float64, got"):
        parameter.grad = np.zeros(SHAPE, dtype)
    np.testing.assert_array_equal(parameter.grad, 7)


def test_gradients_accumulate_into_new_arrays(parameter):
    kept = parameter.grad
    parameter.accumulate(np.ones(SHAPE))
    np.testing.assert_array_equal(parameter.grad, 8)
    np.testing.assert_array_equal(kept, 7)


def test_a_frozen_parameter_accumulates_nothing(parameter):
    parameter.requires_grad = False
    parameter.accumulate(np.ones(SHAPE))
    np.testing.assert_array_equal(parameter.grad, 7)
    parameter.grad = None
    parameter.accumulate(np.ones(SHAPE))
    assert parameter.grad is None


def test_a_gradient_that_would_broadcast_is_not_added():
    parameter = npbn.Parameter(np.zeros((2, 3)))
    parameter.accumulate(np.full((2, 3), 5.0))
    with pytest.raises(ShapeError, match=r"expected shape \(2, 3\), got \(3,\)"):
        parameter.accumulate(np.ones(3))
    np.testing.assert_array_equal(parameter.grad, 5.0)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_numel_is_torchs(shape):
    assert npbn.Parameter(np.zeros(shape)).numel() == torch.zeros(shape).numel()


@pytest.mark.parametrize(
    "layer", [npbn.Linear(2, 2), npbn.Conv2d(2, 2, 1)], ids=["Linear", "Conv2d"]
)
def test_a_bias_of_another_dtype_is_refused_in_the_forward_pass_as_in_torch(layer):
    layer.bias.data = np.zeros(2)
    with pytest.raises(DtypeError, match="expected bias of dtype float32, got float64"):
        layer(np.zeros((1, 2, 1, 1) if isinstance(layer, npbn.Conv2d) else (1, 2), np.float32))
    assert layer.weight.grad is None
