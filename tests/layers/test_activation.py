"""ReLU and Sigmoid as layers."""

import numpy as np
import pytest
import torch
from helpers import array, assert_within, quantum, rngs, tensor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layer_contract import LayerContract, assert_refused, draw

import npbn
from npbn.errors import DtypeError

LAYERS = ["ReLU", "Sigmoid"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(
    rng=rngs(),
    shapes=st.lists(hnp.array_shapes(min_dims=0, min_side=0), min_size=1, max_size=3),
    training=st.booleans(),
)
def test_outputs_and_gradients_are_torchs_whatever_the_shape(name, dtype, rng, shapes, training):
    """Five rounded operations and an exp of up to 3 units: 8 eps, and float16's underflow."""
    layer, theirs = getattr(npbn, name)().train(training), getattr(torch.nn, name)()
    for shape in shapes:
        x, grad = map(np.asarray, rng.normal(scale=3, size=(2, *shape)).astype(dtype))
        leaf = tensor(x, requires_grad=True)
        torch_y = theirs(leaf)
        torch_y.backward(tensor(grad))
        y, grad_input = layer(x), layer.backward(grad)
        assert y.dtype == grad_input.dtype == dtype
        lost = 4 * quantum(dtype)
        bound = 8 * np.finfo(dtype).eps * np.abs(array(torch_y).astype(float)) + lost
        assert_within(y, array(torch_y), bound, "output")
        assert_within(grad_input, array(leaf.grad), bound * np.abs(grad) + lost, "grad_input")


@pytest.mark.parametrize("name", LAYERS)
def test_repr_is_torchs_and_there_is_no_state(name):
    layer = getattr(npbn, name)()
    assert repr(layer) == repr(getattr(torch.nn, name)())
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128", "object"])
def test_a_wrong_dtype_is_refused_and_nothing_is_changed(name, dtype):
    layer = getattr(npbn, name)()
    fragments = [name, "float32", dtype]
    assert_refused(layer, draw(0, (3, 4)), np.ones((3, 4), dtype), DtypeError, fragments)


class TestReLUContract(LayerContract):
    shape = (5, 4)

    def make(self):
        return npbn.ReLU()


class TestSigmoidContract(LayerContract):
    shape = (2, 5, 4)

    def make(self):
        return npbn.Sigmoid()
