"""The oracle against exact fractions, and against torch in float64."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import rngs
from hypothesis import given
from hypothesis import strategies as st

from npbn.testing import Setup, Step, oracle
from npbn.testing.adapters.torch_nn import implementation as torch_implementation

DTYPES = pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])


def fractions(values):
    return [Fraction(float(value)) for value in np.ravel(values)]


def within(value, exact, relative):
    return abs(Fraction(float(value)) - exact) <= relative * abs(exact) + Fraction(1, 10**300)


@DTYPES
@given(
    rng=rngs(), n=st.integers(2, 8), exponent=st.integers(-4, 4), ratio=st.sampled_from([0, 1e3])
)
def test_statistics_and_squares_of_the_output_are_exact(dtype, rng, n, exponent, ratio):
    exponent = min(exponent, 1) if dtype == np.float16 else exponent  # which ends at 65504
    x = ((rng.normal(size=(n, 1)) + ratio) * 10.0**exponent).astype(dtype)
    setup = Setup(1, eps=0.5, running_mean=np.ones(1, dtype), running_var=np.ones(1, dtype))
    exact = oracle.step(setup, Step(x, True))
    values, momentum = fractions(x), Fraction(0.1)
    mean = sum(values) / n
    var = sum((value - mean) ** 2 for value in values) / n
    # Float64 arithmetic on narrower values rounds the mean, which every deviation feels.
    unit, root = Fraction(1, 2**50), Fraction(float(var + Fraction(0.5)) ** 0.5)
    felt = 0 if dtype == np.float64 else abs(mean)
    slack = unit * (1 + felt / Fraction(max(float(var) ** 0.5, 1e-30)))
    assert within(exact.mean[0], mean, Fraction(1, 2**50))
    assert within(exact.var[0], var, slack)
    for found, old_and_new, lost in (
        (exact.running_mean[0], (1 - momentum, momentum * mean), 4 * unit),
        (exact.running_var[0], (1 - momentum, momentum * var * n / (n - 1)), 4 * slack),
    ):
        off = abs(Fraction(float(found)) - sum(old_and_new))
        assert off <= lost * sum(abs(term) for term in old_and_new)
    for y, value in zip(exact.y[:, 0], values, strict=True):
        square = (value - mean) ** 2 / (var + Fraction(0.5))
        size = Fraction(abs(float(y)))
        lost = unit * (size + felt / root)
        assert abs(size**2 - square) <= 2 * size * lost + lost**2


@given(rng=rngs(), n=st.integers(2, 20), channels=st.integers(1, 3), training=st.booleans())
def test_everything_is_torchs_in_float64(rng, n, channels, training):
    setup = Setup(
        channels,
        eps=1e-3,
        weight=rng.normal(size=channels),
        bias=rng.normal(size=channels),
        running_mean=rng.normal(size=channels),
        running_var=rng.uniform(0.5, 2, channels),
        dtype=np.dtype(np.float64),
    )
    step = Step(rng.normal(size=(n, channels)), training, rng.normal(size=(n, channels)))
    exact = oracle.step(setup, step)
    layer = torch_implementation(torch.nn.BatchNorm1d).make(setup)
    found = [layer.forward(step.x, training), *layer.backward(step.grad_output)]
    wanted = [exact.y, exact.grad_input, exact.grad_weight, exact.grad_bias]
    for mine, its in zip(
        [*wanted, exact.running_mean, exact.running_var],
        [*found, layer.running_mean, layer.running_var],
        strict=True,
    ):
        # Deviations of two close values are divided by sqrt(eps): 30 times the rounding.
        np.testing.assert_allclose(mine, its, rtol=1e-10, atol=1e-11)
    assert exact.num_batches_tracked == int(layer.num_batches_tracked)


@DTYPES
def test_equal_values_have_no_variance(dtype):
    x = np.full((7, 1), 0.1, dtype)
    exact = oracle.step(Setup(1, bias=np.array([3], dtype)), Step(x, True))
    assert exact.var[0] == 0
    assert (exact.y == 3).all()
