"""SyncBatchNorm on shards against exact BatchNorm of the whole batch, and the conversion."""

import copy
from unittest import mock

import numpy as np
import pytest
from distributed.standin import Message, cuts, fails, outcomes, run
from helpers import assert_same_bits, assert_within, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.config import to_config
from npbn.distributed import SyncBatchNorm, convert_sync_batch_norm, sync_batch_norm
from npbn.errors import BatchSizeError, DistributedError, ShapeError
from npbn.testing import oracle, tolerances
from npbn.testing.case import Case, Setup, Step
from npbn.testing.strategies import cases, constant

BUFFERS = "running_mean", "running_var", "num_batches_tracked"
AFFINE = [(True, True), (True, False), (False, False)]
# Statistics are gathered by up to GATHER ranks, and added by more.
roads = pytest.mark.parametrize("gather", [16, 0], ids=["gathered", "summed"])
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


@roads
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


@roads
@given(data=st.data(), size=sizes)
def test_means_a_million_deviations_away_cost_float32_no_digits(gather, data, size):
    case = data.draw(cases(ranks=(2, 4), ratios=(1e6, -1e6), scales=(1.0, 1e-3)))
    assert_case(case, cuts(data.draw, len(case.steps[0].x), size), gather)


@roads
@given(data=st.data(), size=sizes)
def test_float16_input_is_computed_in_float32_and_rounded_once(gather, data, size):
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    case = data.draw(cases(ranks=(2, 4), dtype=dtype, x_dtype="float16", scales=(1.0, 0.01)))
    assert_case(case, cuts(data.draw, len(case.steps[0].x), size), gather)


@roads
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data(), size=sizes)
def test_constant_channels_give_exactly_the_bias(gather, dtype, data, size):
    case = data.draw(cases(ranks=(2, 3), dtype=dtype, values=constant, ratios=(0.0, 3.0)))
    shards = cuts(data.draw, len(case.steps[0].x), size)
    layers, ys, _ = run_case(case, shards, gather)
    for y in ys:
        assert_same_bits(y, np.broadcast_to(npbn_along(case.setup.bias, y), y.shape).copy())
    exact = oracle.step(case.setup, case.steps[0])
    bound = bounds_of(case, exact).running_var
    assert_within(layers[0].running_var, exact.running_var, bound, "running_var")


def npbn_along(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 2))


@given(data=st.data(), size=sizes)
def test_large_batches_take_other_roads_to_the_same_numbers(data, size):
    """Beyond 8,192 numbers a shard is measured and combined in its own dtype."""
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


@roads
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


@given(data=st.data(), size=st.integers(2, 4))
def test_evaluation_is_batch_norms_to_the_bit_and_exchanges_nothing(data, size):
    case = data.draw(cases(ranks=(2, 4), modes=((False,),), affine=AFFINE))
    (step,) = case.steps
    shards = cuts(data.draw, len(step.x), size)

    def program(comm):
        layer = layer_of(case.setup, comm).eval()
        kind = npbn.BatchNorm1d if step.x.ndim == 2 else npbn.BatchNorm2d
        twin = kind(
            layer.num_features,
            layer.eps,
            affine=layer.affine,
            bias=layer.bias is not None,
        ).eval()
        twin.load_state_dict(layer.state_dict())
        x, grad = (a[shards[comm.rank]] for a in (step.x, step.grad_output))
        before = layer.state_dict()
        assert_same_bits(layer(x), twin(x))
        assert_same_bits(layer.train().predict(x), twin.predict(x))
        assert_same_bits(layer.backward(grad), twin.backward(grad))
        for mine, its in zip(layer.parameters(), twin.parameters(), strict=True):
            assert_same_bits(mine.grad, its.grad)
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


# -- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 5, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_gather_forward_and_one_sum_back_of_a_size_that_only_channels_decide(channels, dtype):
    """As the docstring says: 8 · (2 + 2 C) bytes, and 8 · 2 C."""

    def program(comm):
        layer = SyncBatchNorm(channels, comm=comm, dtype=dtype)
        x = np.random.default_rng(comm.rank).normal(size=(4 + comm.rank, channels, 3))
        y = layer(x.astype(dtype))
        assert comm.messages == [
            Message("gather", f"SyncBatchNorm({channels}) forward", 8 * (2 + 2 * channels))
        ]
        layer.backward(y)
        assert comm.messages[1:] == [
            Message("sum", f"SyncBatchNorm({channels}) backward", 8 * 2 * channels)
        ]
        layer(x.astype(dtype))
        layer.backward(y, input_grad=False)
        assert len(comm.messages) == 3

    run(3, program)


def test_beyond_gather_two_sums_forward():
    def program(comm):
        SyncBatchNorm(5, comm=comm)(np.random.default_rng(0).normal(size=(4, 5)).astype("f4"))
        return [(message.kind, message.bytes) for message in comm.messages]

    with mock.patch.object(sync_batch_norm, "GATHER", 2):
        assert run(3, program) == [[("sum", 8 * (1 + 5)), ("sum", 8 * 2 * 5)]] * 3
        assert run(2, program) == [[("gather", 8 * (2 + 2 * 5))]] * 2


@given(data=st.data())
def test_one_rank_is_batch_norm_and_exchanges_nothing(data):
    case = data.draw(cases(ranks=(2,), affine=AFFINE, momenta=(0.1, None)))
    (step,) = case.steps

    def program(comm):
        layer = layer_of(case.setup, comm)
        y, grad = layer(step.x), layer.backward(step.grad_output)
        assert comm.messages == []
        return layer, y, grad

    ((layer, y, grad),) = run(1, program)
    exact = oracle.step(case.setup, step)
    bounds = bounds_of(case, exact)
    assert_within(y, exact.y, bounds.y)
    assert_within(grad, exact.grad_input, bounds.grad_input)
    assert_within(layer.running_var, exact.running_var, bounds.running_var)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4])
def test_one_value_per_channel_on_all_ranks_together_is_refused_on_all_alike(size):
    def program(comm):
        layer = SyncBatchNorm(3, comm=comm)
        before = layer.state_dict()
        try:
            layer(np.ones((int(comm.rank == size - 1), 3), np.float32))
        finally:
            for key, value in layer.state_dict().items():
                assert_same_bits(value, before[key])

    message = fails(size, program, BatchSizeError)
    assert "SyncBatchNorm(3): Expected more than 1 value per channel" in message


def test_two_values_on_two_ranks_are_enough():
    x = np.array([[1.0, 5.0], [3.0, 4.0]])
    case = cases_of(np.random.default_rng(0), x)
    assert_case(case, [slice(0, 1), slice(1, 2)], 16)


@roads
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_on_all_ranks(gather, value):
    def program(comm):
        layer = SyncBatchNorm(3, comm=comm)
        before = layer.state_dict()
        x = np.random.default_rng(comm.rank).normal(size=(4, 3)).astype("f4")
        if comm.rank in (1, 3):
            x[2, 1] = value
        try:
            layer(x)
        finally:
            for key, array in layer.state_dict().items():
                assert_same_bits(array, before[key])

    with mock.patch.object(sync_batch_norm, "GATHER", gather):
        message = fails(4, program)
    assert "SyncBatchNorm(3) forward: rank 1: NaN or infinite" in message
    assert "rank 3: NaN or infinite" in message
    assert "rank 0" not in message
    assert "rank 2" not in message


@roads
def test_finite_values_whose_variance_overflows_over_the_ranks_are_no_warning(gather):
    def program(comm):
        x = np.full((2, 1), [1e200, -1e200][comm.rank])
        SyncBatchNorm(1, comm=comm, dtype="f8")(x)

    with mock.patch.object(sync_batch_norm, "GATHER", gather):
        message = fails(2, program)
    assert "finite on every rank, but not all together" in message


def test_an_input_that_one_rank_refuses_stops_the_others():
    def program(comm):
        SyncBatchNorm(3, comm=comm)(np.ones((4, 3 + comm.rank), np.float32))

    first, second = outcomes(2, program)
    assert isinstance(second, ShapeError)
    assert "(4, 4)" in str(second)
    assert isinstance(first, DistributedError)


def test_ranks_1_to_5_only_are_taken():
    def program(comm):
        SyncBatchNorm(3, comm=comm)(np.ones(3, np.float32))

    with pytest.raises(ShapeError, match=r"\(N, 3\) or \(N, 3, L\).*got \(3,\)"):
        run(1, program)


# -- conversion -----------------------------------------------------------------------------------


def odd_network():
    """BatchNorm of all sorts, one layer twice, some frozen, some in eval mode."""
    rng = np.random.default_rng(0)
    shared = npbn.BatchNorm1d(3, eps=0.1)
    net = npbn.Sequential(
        fc=npbn.Linear(3, 3, rng=rng),
        shared=shared,
        inner=npbn.Sequential(npbn.ReLU(), shared, npbn.BatchNorm1d(3, momentum=None, bias=False)),
        ghost=npbn.GhostBatchNorm1d(3, 2),
        renorm=npbn.BatchRenorm1d(3, 3.0, 5.0),
        bare=npbn.BatchNorm1d(3, affine=False, track_running_stats=False),
        cold=npbn.BatchNorm1d(3).freeze(),
        in_eval=npbn.BatchNorm1d(3).eval(),
        images=npbn.BatchNorm2d(3, dtype="f8"),
    )
    for parameter in net.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    return net


class Alone:
    """A communicator of one rank, for what needs none."""

    rank, size = 0, 1
    start_sum = None

    def __deepcopy__(self, memo):
        return self


def test_conversion_keeps_everything_but_the_kind():
    net, twin, comm = odd_network(), odd_network(), Alone()
    parameters, buffers = list(net.parameters()), [b for _, b in net.named_buffers()]
    kept = net.ghost, net.renorm, net.fc
    assert convert_sync_batch_norm(net, comm) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a is b for (_, a), b in zip(net.named_buffers(), buffers, strict=True))
    assert (net.ghost, net.renorm, net.fc) == kept
    assert net.shared is net.inner[1]
    names = "shared", "bare", "cold", "in_eval", "images"
    for name in names:
        layer, its = getattr(net, name), getattr(twin, name)
        assert type(layer) is SyncBatchNorm
        assert layer.comm is comm
        assert repr(layer) == repr(its).replace(type(its).__name__, "SyncBatchNorm")
        assert (layer.training, layer.frozen) == (its.training, its.frozen)
    assert type(net.inner[2]) is SyncBatchNorm
    assert [n for n, _ in net.named_modules()] == [n for n, _ in twin.named_modules()]
    assert list(net.state_dict()) == list(twin.state_dict())
    net.freeze(False).train()
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_conversion_forgets_a_forward_pass_that_waits_and_a_second_one_changes_nothing():
    net = npbn.BatchNorm1d(3)
    net(np.random.default_rng(0).normal(size=(4, 3)).astype("f4"))
    layer = convert_sync_batch_norm(net, Alone())
    with pytest.raises(npbn.errors.BackwardError):
        layer.backward(np.ones((4, 3), "f4"))
    assert convert_sync_batch_norm(layer, Alone()) is layer


def test_a_batch_norm_by_itself_is_returned_as_a_new_layer():
    layer = npbn.BatchNorm2d(3)
    sync = convert_sync_batch_norm(layer, Alone())
    assert (type(layer), type(sync)) == (npbn.BatchNorm2d, SyncBatchNorm)
    assert sync.weight is layer.weight
    assert sync.running_var is layer.running_var
    for other in (npbn.GhostBatchNorm1d(3, 2), npbn.BatchRenorm1d(3, 3.0, 5.0), npbn.Linear(2, 2)):
        assert convert_sync_batch_norm(other, Alone()) is other


def test_a_converted_network_is_described_saved_and_loaded_as_what_it_was(tmp_path):
    def fresh():
        net = odd_network()
        net.inner = npbn.Identity()  # a description cannot say that a layer occurs twice
        return net.float()

    net, expected = fresh(), to_config(fresh())
    convert_sync_batch_norm(net, Alone())
    assert to_config(net) == expected
    npbn.save(net, tmp_path / "net.npz")
    other = npbn.from_config(to_config(net))
    assert repr(other) == repr(fresh())
    other.load_state_dict(npbn.load(tmp_path / "net.npz"))
    for key, value in net.state_dict().items():
        assert_same_bits(other.state_dict()[key], value, key)


def test_a_layer_in_a_subclass_of_module_is_found():
    class Block(npbn.Module):
        def __init__(self):
            self.norm = npbn.BatchNorm1d(3)
            self.again = self.norm

    block = convert_sync_batch_norm(npbn.Sequential(Block()), Alone())[0]
    assert type(block.norm) is SyncBatchNorm
    assert block.again is block.norm


@given(rng=rngs())
def test_a_copy_of_a_converted_network_computes_with_the_same_ranks(rng):
    x, grad = rng.normal(size=(2, 6, 3)).astype("f4")

    def program(comm):
        net = convert_sync_batch_norm(
            npbn.Sequential(npbn.Linear(3, 3, rng=np.random.default_rng(0)), npbn.BatchNorm1d(3)),
            comm,
        )
        twin = copy.deepcopy(net)
        assert twin[1].comm is comm
        shard = [slice(0, 1), slice(1, 6)][comm.rank]
        y, grad_input = net(x[shard]), net.backward(grad[shard])
        for key, value in twin.state_dict().items():
            assert "running" not in key or not np.array_equal(value, net.state_dict()[key])
        assert_same_bits(twin(x[shard]), y)
        assert_same_bits(twin.backward(grad[shard]), grad_input)

    run(2, program)
