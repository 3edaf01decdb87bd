"""Dropout as a layer: its modes, its generator, and its manners."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from layer_contract import LayerContract, assert_refused, draw

from npbn.errors import DtypeError
from npbn.functional.dropout import dropout_backward, dropout_forward
from npbn.layers.container import Sequential
from npbn.layers.dropout import Dropout


def make(p=0.5, seed=0):
    return Dropout(p, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("p", [0, 0.3, 1])
@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (2, 3, 4, 5)])
def test_training_is_the_kernel_with_the_generators_next_draws(dtype, p, shape):
    layer, rng = make(p), np.random.default_rng(0)
    for seed in range(3):
        x, grad = (np.asarray(draw(each, shape, float)).astype(dtype) for each in (seed, seed + 9))
        y, mask = dropout_forward(x, p, rng)
        assert_same_bits(layer(x), y)
        assert_same_bits(layer.backward(grad), dropout_backward(grad, mask))


def test_evaluation_and_predict_are_the_identity_and_draw_nothing():
    layer, x, grad = make(), draw(0, (3, 4)), draw(1, (3, 4))
    assert_same_bits(layer.predict(x), x)
    assert_same_bits(layer.eval()(x), x)
    assert_same_bits(layer.backward(grad), grad)
    assert_same_bits(layer.train()(x), make()(x))


def test_the_mode_at_forward_decides_what_backward_does():
    layer, x, grad = make(), draw(0, (30,)), draw(1, (30,))
    layer(x)
    dropped = layer.eval().backward(grad)
    assert (dropped == 0).any()
    layer(x)
    assert_same_bits(layer.train().backward(grad), grad)


def test_copies_and_pickles_go_on_from_the_generators_state():
    layer, x = make(), draw(0, (20,))
    layer(x)
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = [layer(x), layer(x)]
    for twin in twins:
        for y in expected:
            assert_same_bits(twin(x), y)


def test_layers_may_share_a_generator_and_one_without_draws_its_own():
    rng, x = np.random.default_rng(0), np.ones(50)
    first, second = Sequential(Dropout(rng=rng), Dropout(rng=rng))
    assert (first(x) != second(x)).any()
    assert (Dropout()(x) != Dropout()(x)).any()


@pytest.mark.parametrize("p", [0.5, 0.25, 0, 1])
def test_repr_is_torchs_and_there_is_no_state(p):
    assert repr(Dropout(p)) == repr(torch.nn.Dropout(p))
    assert Dropout(p).p == p
    assert Dropout(p).state_dict() == {}
    assert list(Dropout(p).parameters()) == []


def test_one_half_is_the_default():
    assert repr(Dropout()) == repr(torch.nn.Dropout())


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan, "0.5", None])
def test_a_probability_that_is_none_is_refused_at_construction(p):
    with pytest.raises(ValueError, match=r"^Dropout: expected a probability p") as caught:
        Dropout(p)
    assert repr(p) in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_a_probability_assigned_later_takes_effect_and_is_checked(training):
    layer, x = make().train(training), np.ones(4)
    layer.p = 1
    np.testing.assert_array_equal(layer(x), np.zeros(4) if training else x)
    layer.p = 7
    with pytest.raises(ValueError, match=r"Dropout: .* got 7"):
        layer(x)


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"numpy\.random\.Generator"):
        Dropout(rng=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128", "object"])
def test_a_wrong_dtype_is_refused_and_nothing_is_changed_or_drawn(training, dtype):
    layer = make().train(training)
    fragments = ["Dropout: expected", "float32", dtype]
    assert_refused(layer, draw(0, (3, 4)), np.ones((3, 4), dtype), DtypeError, fragments)
    twin, x = make().train(training), draw(0, (3, 4))
    twin(x)
    assert_same_bits(layer(x), twin(x))


class TestContract(LayerContract):
    shape = (5, 4)

    def make(self):
        return make()


class TestContractOfNothingDropped(LayerContract):
    shape = (2, 3, 4)

    def make(self):
        return make(0.0)
