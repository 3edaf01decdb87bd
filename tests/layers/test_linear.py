"""The layer Linear against torch's, and its manners."""

import copy

import numpy as np
import pytest
import torch
from helpers import DTYPE_PAIRS, array, assert_within, rngs, tensor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layer_contract import LayerContract, assert_refused, draw

import npbn
from npbn.errors import DtypeError, ShapeError


def pair(features, outputs, bias, dtype, torch_dtype, rng):
    """Return a layer and torch's with the same parameters."""
    mine = npbn.Linear(features, outputs, bias, dtype=dtype, rng=rng)
    theirs = torch.nn.Linear(features, outputs, bias, dtype=getattr(torch, torch_dtype))
    state = {key: tensor(value, torch_dtype) for key, value in mine.state_dict().items()}
    theirs.load_state_dict(state)
    return mine, theirs


@pytest.mark.parametrize(("dtype", "torch_dtype"), DTYPE_PAIRS)
@given(
    rng=rngs(),
    features=st.integers(1, 6),
    outputs=st.integers(1, 6),
    bias=st.booleans(),
    leading_shapes=st.lists(
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), min_size=1, max_size=4
    ),
    training=st.booleans(),
)
def test_several_passes_in_a_row_accumulate_torchs_gradients(
    dtype, torch_dtype, rng, features, outputs, bias, leading_shapes, training
):
    """A sum of k terms loses at most (k + 2) eps Σ|terms|, and each pass adds one rounding."""
    mine, theirs = pair(features, outputs, bias, dtype, torch_dtype, rng)
    mine.train(training)
    eps, weight = np.finfo(dtype).eps, np.abs(mine.weight.data).astype(float)
    weight_terms, bias_terms, rows = np.zeros(weight.shape), np.zeros(outputs), 0
    for leading in leading_shapes:
        x = np.asarray(rng.normal(size=(*leading, features))).astype(dtype)
        grad = np.asarray(rng.normal(size=(*leading, outputs))).astype(dtype)
        leaf = tensor(x, torch_dtype, requires_grad=True)
        torch_y = theirs(leaf)
        torch_y.backward(tensor(grad, torch_dtype))
        y, grad_input = mine(x), mine.backward(grad)
        terms = np.abs(x) @ weight.T + 1  # |bias| <= 1
        assert_within(y, array(torch_y), (features + 3) * eps * terms, "output")
        terms = np.abs(grad) @ weight
        assert_within(grad_input, array(leaf.grad), (outputs + 2) * eps * terms, "grad_input")
        x, grad = x.reshape(-1, features), grad.reshape(-1, outputs)
        rows += len(x) + 1
        weight_terms += np.abs(grad).T.astype(float) @ np.abs(x)
        bias_terms += np.abs(grad).sum(axis=0)
        bound = (rows + 2) * eps
        assert_within(mine.weight.grad, array(theirs.weight.grad), bound * weight_terms, "weight")
        if bias:
            assert_within(mine.bias.grad, array(theirs.bias.grad), bound * bias_terms, "bias")


@pytest.mark.parametrize("bias", [True, False])
def test_repr_is_torchs(bias):
    assert repr(npbn.Linear(3, 2, bias=bias)) == repr(torch.nn.Linear(3, 2, bias=bias))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_parameters_have_torchs_shapes_and_the_dtype_asked_for(dtype):
    layer = npbn.Linear(5, 3, dtype=dtype)
    shapes = {name: tuple(value.shape) for name, value in torch.nn.Linear(5, 3).named_parameters()}
    assert {name: p.shape for name, p in layer.named_parameters()} == shapes
    assert {p.dtype for p in layer.parameters()} == {np.dtype(dtype)}
    assert npbn.Linear(5, 3, bias=False).bias is None


@pytest.mark.parametrize("features", [(0, 2), (3, 0), (0, 0)])
def test_no_features_are_a_number_of_features_as_in_torch(features):
    x = np.ones((4, features[0]), np.float32)
    layer = npbn.Linear(*features)
    with pytest.warns(UserWarning, match="zero-element"):  # it initialises them
        theirs = torch.nn.Linear(*features)
    assert layer(x).shape == theirs(tensor(x)).shape
    assert layer.backward(np.ones((4, features[1]), np.float32)).shape == x.shape


def test_initial_values_come_from_the_generator_and_stay_within_torchs_bound():
    first, same, other = (
        npbn.Linear(16, 64, rng=np.random.default_rng(seed)).state_dict() for seed in (1, 1, 2)
    )
    for key, value in first.items():
        np.testing.assert_array_equal(value, same[key])
        assert (value != other[key]).any()
        assert np.abs(value).max() <= 1 / 4  # 1 / sqrt(16), which 64 draws come near to
        assert np.abs(value).max() > 0.9 / 4


def test_new_values_written_into_a_parameter_take_effect_at_the_next_call():
    layer, x = npbn.Linear(3, 2, dtype=np.float64).eval(), draw(0, (4, 3))
    layer(x)
    layer.weight.data[...] = 0
    layer.bias.data[...] = [1, 2]
    np.testing.assert_array_equal(layer(x), np.broadcast_to([1.0, 2.0], (4, 2)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bad", "error", "fragments"),
    [
        (np.ones((), "f4"), ShapeError, ["(*, 3)", "()"]),
        (np.ones((4, 2), "f4"), ShapeError, ["(*, 3)", "(4, 2)"]),
        (np.ones((3, 4), "f4"), ShapeError, ["(*, 3)", "(3, 4)"]),
        (np.ones((4, 3)), DtypeError, ["float32", "float64"]),
        (np.ones((4, 3), "f2"), DtypeError, ["float32", "float16"]),
        (np.ones((4, 3), int), DtypeError, ["float32", "int64"]),
        (np.ones((4, 3), bool), DtypeError, ["float32", "bool"]),
        (np.ones((4, 3), complex), DtypeError, ["float32", "complex128"]),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_changed(training, bad, error, fragments):
    layer = npbn.Linear(3, 2, rng=np.random.default_rng(0)).train(training)
    layer(np.ones((2, 3), np.float32))
    layer.backward(np.ones((2, 2), np.float32))
    assert_refused(layer, draw(1, (5, 3), "f4"), bad, error, ["Linear(3, 2)", *fragments])
    with pytest.raises(error):
        copy.deepcopy(layer).predict(bad)


@pytest.mark.parametrize("dtype", [int, complex, "longdouble"])
def test_a_dtype_that_is_not_computed_in_is_refused(dtype):
    with pytest.raises(DtypeError, match=r"Linear: expected dtype float16, float32 or float64"):
        npbn.Linear(3, 2, dtype=dtype)


class TestContract(LayerContract):
    shape = (5, 4)

    def make(self):
        return npbn.Linear(4, 3, dtype=np.float64, rng=np.random.default_rng(3))


class TestContractOfOneVectorWithoutBias(TestContract):
    shape = (4,)

    def make(self):
        return npbn.Linear(4, 3, bias=False, dtype=np.float64, rng=np.random.default_rng(3))
