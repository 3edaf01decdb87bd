"""SGD, against torch.optim.SGD, step by step."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import LAYOUTS, array, assert_same_bits, by_both_engines, layouts, tensor
from hypothesis import given
from optim.runs import DTYPES, Bounds, group_options, npbn_sgd, params, runs, step, torch_sgd

import npbn

pytestmark = pytest.mark.usefixtures("engine")


@given(runs())
def test_every_option_is_torchs(run):
    groups, steps = run
    mine, its, bounds = npbn_sgd(groups), torch_sgd(groups), Bounds(groups)
    for rates, gradients in steps:
        for side in (mine, its):
            step(side, rates, gradients)
        bounds.step(rates, gradients)
        bounds.check(mine, its)


# -- the engines ----------------------------------------------------------------------------


@by_both_engines
@pytest.mark.parametrize("dtype", [np.float16, *DTYPES])
@given(
    layout=layouts.filter(lambda name: name != "read only"),
    data=st.data(),
    options=group_options(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_engines_agree_in_any_layout_and_take_each_others_buffers(
    dtype, layout, data, options, seed
):
    """Steps by one engine or the other; both round as the bounds against torch say."""
    rng = np.random.default_rng(seed)
    grad_layout = data.draw(st.sampled_from([layout, *LAYOUTS]))
    values = rng.normal(size=(2, 3, 4, 5)).astype(dtype)
    groups = [(options, [values])]
    expected, bounds = npbn_sgd(groups), Bounds(groups)
    mine = npbn.SGD([npbn.Parameter(LAYOUTS[layout](values.copy()))], **options)
    (parameter,) = params(mine)
    memory, strides = parameter.data, parameter.data.strides
    for name in rng.choice(["numpy", "numba"], 4):
        grad = rng.normal(size=values.shape).astype(dtype)
        with npbn.using_engine("numpy"):
            step(expected, [options["lr"]], [grad])
        parameter.grad = LAYOUTS[grad_layout](grad)
        with npbn.using_engine(name):
            mine.step()
        bounds.step([options["lr"]], [grad])
    bounds.check(mine, expected)
    assert parameter.data is memory
    assert parameter.data.strides == strides


@given(options=group_options())
def test_nan_and_infinity_are_the_same_by_both_engines(options):
    pytest.importorskip("numba")
    specials = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan])
    values, grad = (a.ravel() for a in np.meshgrid(specials, specials))
    results = []
    for name in ("numpy", "numba"):
        optimizer = npbn_sgd([(options, [values])])
        with npbn.using_engine(name):
            for upstream in (grad, grad[::-1], grad):
                step(optimizer, [options["lr"]], [upstream])
        results.append(params(optimizer)[0].data)
    mine, theirs = (np.where(np.isfinite(result), 0, result) for result in results)
    np.testing.assert_array_equal(mine, theirs)


def test_a_large_parameter_is_the_same_for_any_number_of_threads(monkeypatch):
    """The weight of a Linear lies in Fortran order."""
    monkeypatch.setattr("npbn.engines.threads.LARGE", 0)
    rng = np.random.default_rng(0)
    values, grad = rng.normal(size=(2, 151, 71)).astype(np.float32)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}
    threads, results = npbn.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            npbn.set_num_threads(count)
            p = npbn.Parameter(np.array(values, order="F"))
            optimizer = npbn.SGD([p], **options)
            for _ in range(2):
                p.grad = np.asfortranarray(grad)
                optimizer.step()
            results.append((p.data, optimizer.state[p]["momentum_buffer"]))
    finally:
        npbn.set_num_threads(threads)
    for mine in results[1:]:
        for array_, expected in zip(mine, results[0], strict=True):
            assert_same_bits(array_, expected)
            assert array_.flags.f_contiguous


def test_a_momentum_buffer_lies_as_its_parameter_and_goes_on_in_place():
    p = npbn.Parameter(np.array([[1.0, 2.0], [3.0, 4.0]], order="F"))
    optimizer = npbn.SGD([p], lr=0.1, momentum=0.5, dampening=0.5)
    p.grad = np.array([[1.0, 2.0], [3.0, 4.0]])
    optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"]
    np.testing.assert_array_equal(buffer, p.grad)  # the first step knows no dampening
    assert buffer.strides == p.data.strides
    assert not np.shares_memory(buffer, p.grad)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"] is buffer
    np.testing.assert_array_equal(buffer, p.grad)


def test_step_raises_no_floating_point_warnings_and_nan_and_inf_are_data():
    p = npbn.Parameter(np.array([3e38, 1.0, 1e-38], np.float32))
    its = tensor(p.data, requires_grad=True)
    options = {"lr": 10, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer, its_optimizer = npbn.SGD([p], **options), torch.optim.SGD([its], **options)
    for expected in ([np.inf, np.nan], [np.nan, np.nan]):
        p.grad = np.array([-3e38, np.nan, 1e-45], np.float32)
        its.grad = tensor(p.grad)
        with np.errstate(all="raise"):
            optimizer.step()
        its_optimizer.step()
        np.testing.assert_array_equal(p.data[:2], expected)
        np.testing.assert_array_equal(array(its)[:2], expected)


def test_step_updates_in_place_and_zero_grad_forgets():
    p = npbn.Parameter(np.ones(3))
    data, grad = p.data, np.array([1.0, 2.0, 3.0])
    p.grad = grad
    optimizer = npbn.SGD(iter([p]), lr=0.5)
    optimizer.step()
    assert p.data is data
    np.testing.assert_array_equal(data, [0.5, 0, -0.5])
    assert p.grad is grad
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()
    np.testing.assert_array_equal(data, [0.5, 0, -0.5])
