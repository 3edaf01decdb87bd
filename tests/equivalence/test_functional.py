"""npbn.functional.batch_norm is torch's, with its backward pass: NaN, infinities and float16 too.

The two sides may differ by what rounding may do on both; :class:`helpers.BatchNormBounds` derives
it. Upstream gradients are drawn.
"""

import numpy as np
import pytest
import torch
from batch_norm_problems import problems
from helpers import array, assert_same_bits, assert_within, rngs, sprinkle, tensor
from hypothesis import given
from hypothesis import strategies as st

from npbn.functional import batch_norm, batch_norm_backward, updated_running_statistics

pytestmark = pytest.mark.usefixtures("engine")
MOMENTA = st.sampled_from([0.0, 0.1, 0.5, 1.0, -0.5, 1.5])

dtypes = pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [
        pytest.param("float64", "float64", id="float64"),
        pytest.param("float32", "float32", id="float32"),
        pytest.param("float32", "float64", id="float32 against float64"),
    ],
)


@dtypes
@given(data=st.data(), momentum=MOMENTA)
def test_output_and_running_statistics_are_torchs(dtype, torch_dtype, data, momentum):
    p = data.draw(problems(dtype))
    bounds = p.bounds()
    _, torch_running, torch_y = p.torch_forward(torch_dtype, momentum)
    before = [None if a is None else a.copy() for a in (p.running_mean, p.running_var)]
    running = [p.running_mean, p.running_var]
    y = batch_norm(p.x, *running, p.weight, p.bias, p.training, momentum, p.eps)
    assert y.dtype == dtype
    assert_within(y, array(torch_y), bounds.output())
    if not p.training:
        for after, old in zip(running, before, strict=True):
            assert_same_bits(after, old)
    elif p.running_mean is not None:
        for name, after, old, theirs, bound in zip(
            ("running_mean", "running_var"),
            running,
            before,
            torch_running,
            (bounds.running_mean(), bounds.running_var()),
            strict=True,
        ):
            weighed = 2 * abs(momentum) * bound + abs(1 - momentum) * bounds.unit * np.abs(old)
            assert_within(after, array(theirs), weighed, name)


@dtypes
@given(data=st.data())
def test_gradients_are_torchs(dtype, torch_dtype, data):
    p = data.draw(problems(dtype))
    bounds = p.bounds()
    leaves, _, torch_y = p.torch_forward(torch_dtype)
    torch_y.backward(tensor(p.grad, torch_dtype))
    grad_input, grad_weight, grad_bias = batch_norm_backward(p.grad, p.forward()[1])
    assert grad_input.dtype == dtype
    assert_within(grad_input, array(leaves[0].grad), bounds.grad_input(p.grad), "grad_input")
    if p.weight is not None:
        assert grad_weight.dtype == dtype
        expected = array(leaves[1].grad)
        assert_within(grad_weight, expected, bounds.grad_weight(p.grad), "grad_weight")
    if p.bias is not None:
        assert_within(grad_bias, array(leaves[2].grad), bounds.grad_bias(p.grad), "grad_bias")


@given(rngs(), problems(ranks=(2, 3)))
def test_nan_and_infinite_inputs_propagate_as_in_torch(rng, p):
    bounds = p.bounds()  # for the values that stay finite
    grad_bounds = bounds.grad_input(p.grad), bounds.grad_weight(p.grad), bounds.grad_bias(p.grad)
    p.x, p.grad = sprinkle(rng, p.x), sprinkle(rng, p.grad)
    leaves, torch_running, torch_y = p.torch_forward("float64")
    torch_y.backward(tensor(p.grad))
    y, cache = p.forward()
    assert_within(y, array(torch_y), bounds.output())
    gradients = batch_norm_backward(p.grad, cache)
    names = "grad_input", "grad_weight", "grad_bias"
    for name, mine, leaf, bound in zip(names, gradients, leaves, grad_bounds, strict=True):
        if leaf is not None:
            assert_within(mine, array(leaf.grad), bound, name)
    if p.training and p.running_mean is not None:
        running = updated_running_statistics(p.running_mean, p.running_var, cache.statistics, 0.1)
        for mine, theirs in zip(running, torch_running, strict=True):
            scale = bounds.running_mean() + bounds.running_var()
            assert_within(mine, array(theirs), scale + bounds.unit)


@given(rngs(), problems(ranks=(2, 3)))
def test_nan_and_infinite_parameters_and_statistics_propagate_as_in_torch(rng, p):
    bounds = p.bounds()
    if p.weight is not None:  # torch's x · a + (b − mean · a) makes NaN of infinite a
        p.weight = sprinkle(rng, p.weight, (np.nan,), 0.3)
    if p.bias is not None:
        p.bias = sprinkle(rng, p.bias, share=0.3)
    if not p.training:
        p.running_mean = sprinkle(rng, p.running_mean, share=0.3)
        p.running_var = sprinkle(rng, p.running_var, (np.nan, np.inf, -1.0), share=0.3)
    assert_within(p.forward()[0], array(p.torch_forward("float64")[2]), bounds.output())


@pytest.mark.parametrize("training", [True, False])
@given(data=st.data())
def test_float16_beside_float32_parameters_is_torchs_to_float16s_last_digit(training, data):
    p = data.draw(problems("float32", ranks=(2, 3), modes=[training]))
    p.x, p.grad = np.clip(p.x, -6e4, 6e4).astype(np.float16), p.grad.astype(np.float16)
    p.weight = np.ones(p.x.shape[1], np.float32) if p.weight is None else p.weight
    bounds = p.bounds(np.float32)
    leaves = [tensor(a, requires_grad=True) for a in (p.x, p.weight, p.bias)]
    running = [tensor(a) for a in (p.running_mean, p.running_var)]
    torch_y = torch.nn.functional.batch_norm(
        leaves[0], *running, *leaves[1:], p.training, 0.1, p.eps
    )
    torch_y.backward(tensor(p.grad))
    y, cache = p.forward()
    gradients = batch_norm_backward(p.grad, cache)
    expected = [array(torch_y), *(None if leaf is None else array(leaf.grad) for leaf in leaves)]
    in_float32 = [bounds.output(), bounds.grad_input(p.grad), bounds.grad_weight(p.grad)]
    in_float32 += [bounds.grad_bias(p.grad)]
    for mine, theirs, bound in zip([y, *gradients], expected, in_float32, strict=True):
        if theirs is not None:
            assert mine.dtype == theirs.dtype
            rounding = np.finfo(theirs.dtype)
            last_digit = rounding.eps * np.abs(theirs.astype(float)) + rounding.smallest_subnormal
            assert_within(mine, theirs, bound + last_digit)
