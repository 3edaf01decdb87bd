"""The backward pass of batch norm is the derivative of its forward pass, in float64."""

import decimal

import numpy as np
import pytest
import torch
from helpers import (
    along,
    array,
    assert_within,
    batch_shapes,
    tensor,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from identity_problems import Problem, problems

from npbn.functional import (
    batch_norm,
)
from npbn.testing import oracle
from npbn.testing.tolerances import correct

pytestmark = pytest.mark.usefixtures("engine")
# For what takes 0.1 s: fewer examples, and none made smaller, since sizes are drawn from a list.
FEWER = settings(
    max_examples=settings.default.max_examples // 5,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


# -- backward is the derivative of forward --------------------------------------------------------


def decimals(values):
    """Return an object array of the values, exactly."""
    exact = np.empty(len(values), object)
    exact[:] = [decimal.Decimal(float(value)) for value in values]
    return exact


def loss(x, weight, bias, grad, eps, running):
    """Return Σ grad · y of one channel, in decimals."""
    mean, var = oracle.batch_statistics(x) if running is None else running
    return oracle.total(grad * (weight * (x - mean) / (var + eps).sqrt() + bias))


@given(problems(batch_shapes((2, 3)), modes=(True, False)))
def test_backward_is_the_central_difference_of_forward_in_decimal_arithmetic(p):
    """In 60 digits (long double has 19, or 16 where it is a double) the difference is exact.

    A step h = 1e-20 truncates (h / std)², below 1e-34, and divides a rounding of 1e-60 · 1e7
    by h: neither shows beside the contract's eps = 2e-16.
    """
    _, *gradients, _ = p.solve()
    _, *tolerances, _ = p.tolerances()
    expected = [np.empty(p.x.shape), np.empty(p.x.shape[1]), np.empty(p.x.shape[1])]
    h = decimal.Decimal("1e-20")
    with decimal.localcontext(oracle.CONTEXT):
        for c in range(p.x.shape[1]):
            vectors = [None if v is None else v[c] for v in p.arguments]
            mean, var, weight, bias = (
                v if v is None else decimal.Decimal(float(v)) for v in vectors
            )
            weight = decimal.Decimal(1) if weight is None else weight
            bias = decimal.Decimal(0) if bias is None else bias
            x, grad = decimals(p.x[:, c].ravel()), decimals(p.grad[:, c].ravel())
            fixed = grad, decimal.Decimal(p.eps), None if mean is None else (mean, var)
            steps = h * np.eye(len(x), dtype=object)
            by_x = [
                (loss(x + e, weight, bias, *fixed) - loss(x - e, weight, bias, *fixed)) / (2 * h)
                for e in steps
            ]
            by_weight = loss(x, weight + h, bias, *fixed) - loss(x, weight - h, bias, *fixed)
            by_bias = loss(x, weight, bias + h, *fixed) - loss(x, weight, bias - h, *fixed)
            expected[0][:, c] = np.array(by_x, float).reshape(p.x[:, c].shape)
            expected[1][c], expected[2][c] = by_weight / (2 * h), by_bias / (2 * h)
    names = ("grad_input", "grad_weight", "grad_bias")
    for name, mine, theirs, bound in zip(names, gradients, expected, tolerances, strict=True):
        assert_within(mine, theirs, bound, name)


LARGE = st.sampled_from([(512, 32), (2000, 3), (64, 8, 12), (16, 4, 6, 6), (8, 3, 4, 5, 3)])
LARGER = st.sampled_from([(130, 2), (300, 1), (7, 2, 30), (5, 2, 5, 4), (2, 1, 4, 5, 3)])


@pytest.mark.slow
@FEWER
@given(problems(LARGE, modes=(True, False)))
def test_backward_on_large_batches_is_torchs_float64_autograd(p):
    assert_torchs(p)


@FEWER
@given(problems(LARGER, modes=(True, False)))
def test_backward_beyond_a_few_samples_is_torchs_float64_autograd(p):
    assert_torchs(p)


def assert_torchs(p):
    """npbn within its contract, torch within what a right implementation may lose."""
    leaves = [tensor(a, requires_grad=True) for a in (p.x, p.weight, p.bias)]
    running = [tensor(a) for a in (p.running_mean, p.running_var)]
    torch_y = torch.nn.functional.batch_norm(
        leaves[0], *running, *leaves[1:], p.by_batch, 0.0, p.eps
    )
    torch_y.backward(tensor(p.grad))
    theirs = [array(torch_y), *(None if leaf is None else array(leaf.grad) for leaf in leaves)]
    mine, tolerances = p.solve()[:4], p.tolerances()[:4]
    torchs = p.tolerances(correct)[:4]
    names = ("y", "grad_input", "grad_weight", "grad_bias")
    for name, a, b, bound, torch_bound in zip(names, mine, theirs, tolerances, torchs, strict=True):
        if b is not None:
            assert_within(a, b, bound + torch_bound, name)


@pytest.mark.parametrize("shape", [(512, 2), (64, 2, 12)])
def test_the_two_tolerances_tell_a_wrong_backward_from_a_right_one(shape):
    """The terms that a wrong backward pass forgets are far above what rounding may lose."""
    rng = np.random.default_rng(0)
    x, grad = rng.normal(1e4, 1, shape), rng.normal(size=shape)
    p = Problem(x, grad, None, None, 1e-5)
    tolerance = p.tolerances()[1] + p.tolerances(correct)[1]
    x_hat = batch_norm(x, None, None, training=True)
    forgotten = np.abs(x_hat * along((grad * x_hat).mean((0, *range(2, x.ndim))), x))
    assert np.median(forgotten / tolerance) > 1e4
