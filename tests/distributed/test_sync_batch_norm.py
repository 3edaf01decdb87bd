"""SyncBatchNorm on shards against exact BatchNorm of the whole batch."""

from unittest import mock

import numpy as np
import pytest
from distributed.standin import cuts, run
from helpers import assert_same_bits, assert_within
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.distributed import SyncBatchNorm, sync_batch_norm
from npbn.testing import oracle, tolerances
from npbn.testing.case import Case, Setup, Step
from npbn.testing.strategies import cases, constant

BUFFERS = "running_mean", "running_var", "num_batches_tracked"
AFFINE = [(True, True), (True, False), (False, False)]
# Statistics are gathered by up to GATHER ranks, and added by more.
gathered_or_summed = pytest.mark.parametrize("gather", [16, 0], ids=["gathered", "summed"])
sizes = st.integers(1, 4)


def layer_of(setup, comm):
    """Return a SyncBatchNorm that starts as a case's setup says."""
    layer = SyncBatchNorm(
        setup.num_features,
        setup.eps,
        setup.momentum,
        setup.weight is not None,
        setup.tracks,
        comm,
        bias=setup.bias is not None,
        dtype=setup.dtype,
    )
    for name in ("weight", "bias"):
        if getattr(setup, name) is not None:
            getattr(layer, name).data[...] = getattr(setup, name)
    if setup.tracks:
        layer.running_mean[...], layer.running_var[...] = setup.running_mean, setup.running_var
        layer.num_batches_tracked[...] = setup.num_batches_tracked
    return layer


def run_case(case, shards, gather=16):
    """Take a case's step on shards; return the layers, outputs and input gradients by rank."""
    (step,) = case.steps

    def program(comm):
        layer = layer_of(case.setup, comm).train(step.training)
        y = layer(step.x[shards[comm.rank]])
        return layer, y, layer.backward(step.grad_output[shards[comm.rank]])

    with mock.patch.object(sync_batch_norm, "GATHER", gather):
        return zip(*run(len(shards), program), strict=True)


def bounds_of(case, exact):
    """Return the accuracy contract's bounds.

    In float64, where there are no digits to spare, it holds but for the roundings of the means:
    each shard's, the merged one, and in `summed` two in between, each eps / 2 of the largest
    value. They go where an error of the mean goes in `tolerances.correct`, which is for
    2 (n + 8) eps of it: a share of 1 / (n + 8) is the 2 eps of both.
    """
    (step,) = case.steps
    bounds = tolerances.contract(case.setup, step, exact)
    if step.x.dtype == np.float64 and step.training:
        more = tolerances.correct(case.setup, step, exact)
        share = 1 / (step.x.size // step.x.shape[1] + 8)
        bounds = [None if b is None else b + share * m for b, m in zip(bounds, more, strict=True)]
    return tolerances.Tolerance(*bounds)


def assert_case(case, shards, gather):
    layers, ys, grads = run_case(case, shards, gather)
    (step,) = case.steps
    exact = oracle.step(case.setup, step)
    bounds = bounds_of(case, exact)
    assert all(y.dtype == step.x.dtype for y in (*ys, *grads))
    assert_within(np.concatenate(ys), exact.y, bounds.y, "y")
    assert_within(np.concatenate(grads), exact.grad_input, bounds.grad_input, "grad_input")
    for name in ("weight", "bias"):
        mine = [getattr(layer, name) for layer in layers]
        if getattr(case.setup, name) is None:
            assert mine == [None] * len(layers)
            continue
        assert all(p.grad.dtype == p.dtype == case.setup.dtype for p in mine)
        each = np.array([p.grad for p in mine], np.float64)
        bound = getattr(bounds, f"grad_{name}")
        if case.setup.dtype == np.float16:  # each shard's is rounded to it
            bound = bound + np.finfo(np.float16).eps * np.abs(each).sum(axis=0)
        assert_within(each.sum(axis=0), getattr(exact, f"grad_{name}"), bound, name)
    for layer in layers:
        for name in BUFFERS:
            assert_same_bits(getattr(layer, name), getattr(layers[0], name), name)
    if case.setup.tracks:
        for name in BUFFERS[:2]:
            actual = getattr(layers[0], name)
            assert actual.dtype == case.setup.dtype
            assert_within(actual, getattr(exact, name), getattr(bounds, name), name)
        assert layers[0].num_batches_tracked == exact.num_batches_tracked
    return exact, ys


@gathered_or_summed
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data(), size=sizes)
def test_shards_of_a_batch_are_normalised_as_the_whole_batch(gather, dtype, data, size):
    case = data.draw(
        cases(
            ranks=(2, 3, 4, 5),
            dtype=dtype,
            ratios=(0.0, 1.0, -10.0, 100.0),
            affine=AFFINE,
            tracked=(True, True, False),
            momenta=(0.1, None, 0.0, 1.0),
            counts=(0, 3),
            layouts=("contiguous", "Fortran order", "strided", "channels last", "read-only"),
        )
    )
    assert_case(case, cuts(data.draw, len(case.steps[0].x), size), gather)


@gathered_or_summed
@given(data=st.data(), size=sizes)
def test_means_a_million_deviations_away_cost_float32_no_digits(gather, data, size):
    case = data.draw(cases(ranks=(2, 4), ratios=(1e6, -1e6), scales=(1.0, 1e-3)))
    assert_case(case, cuts(data.draw, len(case.steps[0].x), size), gather)


@gathered_or_summed
@given(data=st.data(), size=sizes)
def test_float16_input_is_computed_in_float32_and_rounded_once(gather, data, size):
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    case = data.draw(cases(ranks=(2, 4), dtype=dtype, x_dtype="float16", scales=(1.0, 0.01)))
    assert_case(case, cuts(data.draw, len(case.steps[0].x), size), gather)


@gathered_or_summed
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data(), size=sizes)
def test_constant_channels_give_exactly_the_bias(gather, dtype, data, size):
    case = data.draw(cases(ranks=(2, 3), dtype=dtype, values=constant, ratios=(0.0, 3.0)))
    shards = cuts(data.draw, len(case.steps[0].x), size)
    layers, ys, _ = run_case(case, shards, gather)
    for y in ys:
        assert_same_bits(y, np.broadcast_to(along(case.setup.bias, y), y.shape).copy())
    exact = oracle.step(case.setup, case.steps[0])
    bound = bounds_of(case, exact).running_var
    assert_within(layers[0].running_var, exact.running_var, bound, "running_var")


def along(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 2))


@given(data=st.data(), size=sizes)
def test_large_batches_are_normalised_as_the_whole_batch(data, size):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mean, samples = data.draw(st.sampled_from([0.0, 30.0, 1e4])), 3000
    x = rng.normal(mean, 1, (samples, 5)).astype("f4")
    setup = Setup(
        5,
        weight=rng.normal(size=5).astype("f4"),
        bias=rng.normal(size=5).astype("f4"),
        running_mean=np.zeros(5, "f4"),
        running_var=np.ones(5, "f4"),
    )
    grad = rng.normal(size=x.shape).astype("f4")
    case = Case(setup, (Step(x, True, grad),))
    assert_case(case, cuts(data.draw, samples, size), 16)


@gathered_or_summed
def test_many_ranks_most_of_them_without_samples(gather):
    rng = np.random.default_rng(0)
    case = cases_of(rng, rng.normal(3, 1, (5, 2)))
    shards = [slice(0, 0)] * 9 + [slice(0, 4)] + [slice(4, 4)] * 9 + [slice(4, 5)]
    assert_case(case, shards, gather)


def cases_of(rng, x):
    channels, dtype = x.shape[1], x.dtype
    setup = Setup(
        channels,
        weight=rng.normal(size=channels).astype(dtype),
        bias=rng.normal(size=channels).astype(dtype),
        running_mean=np.zeros(channels, dtype),
        running_var=np.ones(channels, dtype),
        dtype=dtype,
    )
    grad = rng.normal(size=x.shape).astype(dtype)
    return Case(setup, (Step(x, True, grad),))


def twin_of(layer, kind):
    """Return the BatchNorm layer of one process."""
    twin = kind(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        bias=layer.bias is not None,
    )
    twin.load_state_dict(layer.state_dict())
    return twin


def assert_same_state(layer, twin):
    for mine, its in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_same_bits(mine.grad, its.grad)
    assert layer.state_dict().keys() == twin.state_dict().keys()
    for key, value in layer.state_dict().items():
        assert_same_bits(value, twin.state_dict()[key], key)


@given(data=st.data(), size=st.integers(2, 4))
def test_evaluation_is_batch_norms_to_the_bit_and_exchanges_nothing(data, size):
    case = data.draw(cases(ranks=(2, 4), modes=((False,),), affine=AFFINE))
    (step,) = case.steps
    shards = cuts(data.draw, len(step.x), size)

    def program(comm):
        layer = layer_of(case.setup, comm).eval()
        twin = twin_of(layer, npbn.BatchNorm1d if step.x.ndim == 2 else npbn.BatchNorm2d).eval()
        x, grad = (a[shards[comm.rank]] for a in (step.x, step.grad_output))
        before = layer.state_dict()
        assert_same_bits(layer(x), twin(x))
        assert_same_bits(layer.train().predict(x), twin.predict(x))
        assert_same_bits(layer.backward(grad), twin.backward(grad))
        assert_same_state(layer, twin)
        for key, value in layer.state_dict().items():
            assert_same_bits(value, before[key])
        assert comm.messages == []

    run(size, program)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (0, 3, 2, 2)])
def test_empty_shards_everywhere_count_a_batch_and_change_nothing_else(shape):
    def program(comm):
        layer = SyncBatchNorm(3, comm=comm)
        before = layer.state_dict()
        y = layer(np.zeros(shape, np.float32))
        assert y.shape == layer.backward(y).shape == shape
        assert layer.num_batches_tracked == 1
        for name in BUFFERS[:2]:
            assert_same_bits(getattr(layer, name), before[name])
        for parameter in layer.parameters():
            assert_same_bits(parameter.grad, np.zeros(3, np.float32))

    run(3, program)


@given(data=st.data())
def test_one_rank_is_batch_norm_to_the_bit_and_exchanges_nothing(data):
    case = data.draw(cases(ranks=(2,), affine=AFFINE, momenta=(0.1, None)))
    (step,) = case.steps

    def program(comm):
        layer = layer_of(case.setup, comm)
        twin = twin_of(layer, npbn.BatchNorm1d)
        assert_same_bits(layer(step.x), twin(step.x))
        assert_same_bits(layer.backward(step.grad_output), twin.backward(step.grad_output))
        assert_same_state(layer, twin)
        assert comm.messages == []

    run(1, program)


def test_two_values_on_two_ranks_are_enough():
    x = np.array([[1.0, 5.0], [3.0, 4.0]])
    case = cases_of(np.random.default_rng(0), x)
    assert_case(case, [slice(0, 1), slice(1, 2)], 16)
