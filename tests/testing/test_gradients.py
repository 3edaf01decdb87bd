"""`check_gradients` passes layers whose backward is the derivative, and finds those where not."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import assert_unchanged, snapshot

import npbn
from npbn.testing import GradientError, check_gradients

seeds = st.integers(0, 2**32 - 1)
LAYERS = {
    "linear": lambda rng: npbn.Linear(3, 4, dtype=np.float64, rng=rng),
    "batch norm": lambda rng: npbn.BatchNorm1d(3).double(),
    "batch norm in evaluation": lambda rng: npbn.BatchNorm1d(3).double().eval(),
    "sigmoid": lambda rng: npbn.Sigmoid(),
    "dropout": lambda rng: npbn.Dropout(0.5, rng=rng),
    "network": lambda rng: npbn.Sequential(
        npbn.Linear(3, 4, dtype=np.float64, rng=rng),
        npbn.BatchNorm1d(4).double(),
        npbn.ReLU(),
        npbn.Linear(4, 2, dtype=np.float64, rng=rng),
    ),
}


def problem(seed, name):
    rng = np.random.default_rng(seed)
    layer = LAYERS[name](rng)
    for parameter in layer.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    return layer, rng.normal(size=(5, 3)) * rng.choice([0.01, 1, 100]) + rng.choice([0, 10])


@pytest.mark.parametrize("name", LAYERS)
@given(seed=seeds)
def test_what_is_the_derivative_passes_and_nothing_changes(name, seed):
    layer, x = problem(seed, name)
    before, kept = snapshot(layer), x.copy()
    names = ["input", *(name for name, _ in layer.named_parameters())]
    assert list(check_gradients(layer, x, seed=seed)) == names
    assert_unchanged(layer, before)
    np.testing.assert_array_equal(x, kept)


@given(place=st.floats(-2.5, 2.5))
def test_a_kink_beside_a_value_is_no_mistake(place):
    """However near: one at 0.6 of a step or less made a right gradient wrong."""
    x = np.arange(1.0, 6.0)[:, None]
    kink = 3 + place * 1e-4 * x.std()  # the third value, up to 2.5 steps away

    class Kink(npbn.Module):
        def _apply(self, x, predict):
            return np.where(x > kink, 5 * (x - kink), x - kink), x

        def _backward(self, grad_output, cache, input_grad):
            return grad_output * np.where(cache > kink, 5.0, 1.0)

    assert check_gradients(Kink(), x)["input"] <= 4  # the change of the slope times the gradient


def wrong(backward):
    """Return a BatchNorm whose gradients pass through `backward(input, weight, bias)`."""

    class Wrong(npbn.BatchNorm1d):
        def _gradients(self, grad_output, cache, input_grad):
            return backward(*super()._gradients(grad_output, cache, input_grad))

    return Wrong(3).double()


@pytest.mark.parametrize(
    ("backward", "words"),
    [
        (lambda x, w, b: (x * 1.0001, w, b), "gradient of input"),
        (lambda x, w, b: (x + 1e-5, w, b), "gradient of input"),
        (lambda x, w, b: (x, -w, b), "gradient of weight"),
        (lambda x, w, b: (x, w, 2 * b), r"gradient of bias: \[0\] is .* finite differences give"),
        (lambda x, w, b: (None, w, b), "gradient of input: expected an ndarray, got None"),
        (lambda x, w, b: (x[1:], w, b), r"expected shape \(5, 3\), got \(4, 3\)"),
        (lambda x, w, b: (x * np.nan, w, b), "15 of 15 are wrong"),
    ],
)
def test_what_is_not_is_found(backward, words):
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(GradientError, match=words):
        check_gradients(wrong(backward), x)


def test_a_gradient_that_an_upstream_of_ones_would_hide_is_found():
    layer, x = problem(0, "batch norm")
    y = copy.deepcopy(layer)
    y.forward(x)
    assert np.abs(y.backward(np.ones_like(x))).max() < 1e-12  # all that such a test would see
    with pytest.raises(GradientError, match="gradient of input"):
        check_gradients(wrong(lambda x, w, b: (0 * x, w, b)), x)


def test_an_input_of_the_same_seed_is_not_the_upstream_gradient():
    """Along x the gradient of the input vanishes nearly, whatever it is multiplied by."""
    x = np.random.default_rng(7).normal(size=(5, 3))
    with pytest.raises(GradientError, match="15 of 15 are wrong"):
        check_gradients(wrong(lambda x, w, b: (x * 1.0001, w, b)), x, seed=7)


def test_a_frozen_parameter_is_left_out():
    layer, x = problem(0, "linear")
    layer.bias.requires_grad = False
    assert list(check_gradients(layer, x)) == ["input", "weight"]


def test_float32_is_refused_with_what_to_do():
    layer, x = npbn.BatchNorm1d(3), np.zeros((5, 3))
    with pytest.raises(TypeError, match=r"weight of dtype float64, got float32.*layer.double"):
        check_gradients(layer, x)
    with pytest.raises(TypeError, match="x of dtype float64, got int64"):
        check_gradients(layer.double(), np.zeros((5, 3), np.int64))
