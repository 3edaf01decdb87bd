"""DataParallel as a module: one start on all ranks, its keys and modes, its statistics."""

import copy

import numpy as np
import pytest
from distributed.networks import grads, mlp, parallel, state_bytes
from distributed.standin import fails, run
from helpers import assert_same_bits, rngs
from hypothesis import given

import npbn
from npbn.distributed import DataParallel, train_step


def start(seed):
    """A network of which all that is state depends on the seed."""
    net = mlp(seed)
    for parameter in net.parameters():
        parameter.data[...] += seed
    net.batch_norm1.running_mean[...] = seed
    net.batch_norm1.num_batches_tracked[...] = seed
    return net


@given(rng=rngs())
def test_all_ranks_start_from_rank_0_whatever_they_had(rng):
    seeds = rng.permutation(100)[:3]

    def program(comm):
        net = start(seeds[comm.rank])
        before, kept = state_bytes(net), list(net.parameters())
        net = DataParallel(net, comm)
        assert all(a is b for a, b in zip(net.parameters(), kept, strict=True))
        assert (state_bytes(net) == before) == (comm.rank == 0)
        return state_bytes(net)

    assert run(3, program) == [state_bytes(start(seeds[0]))] * 3


def test_keys_modes_prediction_and_copies_are_a_modules():
    x = np.random.default_rng(0).normal(size=(5, 4))

    def program(comm):
        net = parallel(mlp(), comm)
        assert list(net.state_dict()) == [f"module.{key}" for key in mlp().state_dict()]
        comm.messages.clear()
        assert_same_bits(net.predict(x), mlp().predict(x))
        assert_same_bits(net.eval()(x), mlp().predict(x))
        assert comm.messages == []
        twin = copy.deepcopy(net.train())
        assert twin.comm is comm
        upstream = np.random.default_rng(1).normal(size=(5, 3))
        for one in (net, twin):
            one(x)
            one.backward(upstream)
        for mine, its in zip(grads(net), grads(twin), strict=True):
            assert_same_bits(mine, its)

    run(2, program)


def test_batch_norm_that_is_not_synchronised_takes_over_the_statistics_of_rank_0():
    def program(comm):
        net = DataParallel(npbn.Sequential(mlp(comm.rank), npbn.BatchNorm1d(3, dtype="f8")), comm)
        x = np.random.default_rng(comm.rank).normal(size=(4, 4))
        net.predict(x)
        net.eval()(x)
        assert [m.what for m in comm.messages if "statistics" in m.what] == []
        net.train()(x)
        sent = [(m.kind, m.bytes) for m in comm.messages if m.what == "running statistics"]
        # Mean, variance and count of layers of 5, 5 and 3 channels, from rank 0.
        assert sent == [("broadcast", 0 if comm.rank else 8 * (2 * (5 + 5 + 3) + 3))]
        return {key: value for key, value in net.state_dict().items() if "fc" not in key}

    found = run(3, program)
    twin = npbn.Sequential(mlp(0), npbn.BatchNorm1d(3, dtype="f8"))
    twin(np.random.default_rng(0).normal(size=(4, 4)))
    for state in found:
        for key, value in state.items():
            assert_same_bits(value, twin.state_dict()[key.removeprefix("module.")], key)


@pytest.mark.parametrize("make", [DataParallel, parallel], ids=["BatchNorm", "SyncBatchNorm"])
def test_one_rank_sends_nothing_and_computes_what_the_network_alone_does(make):
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))

    def program(comm):
        net, twin = make(mlp(), comm), mlp()
        assert_same_bits(net(x), twin(x))
        assert_same_bits(net.backward(upstream), twin.backward(upstream))
        for mine, its in zip(grads(net), grads(twin), strict=True):
            assert_same_bits(mine, its)
        optimizers = [npbn.SGD(one.parameters(), lr=0.1) for one in (net, twin)]
        steps = train_step, npbn.train_step
        for _ in range(2):
            (loss, logits), (its_loss, its_logits) = (
                step(one, x, np.arange(5) % 3, npbn.CrossEntropyLoss(), optimizer)
                for step, one, optimizer in zip(steps, (net, twin), optimizers, strict=True)
            )
            assert loss == its_loss == net.loss
            assert_same_bits(logits, its_logits)
        assert state_bytes(net) == state_bytes(twin)
        assert comm.messages == []

    run(1, program)


@pytest.mark.parametrize("with_criterion", [False, True])
def test_a_batch_of_nothing_on_all_ranks_adds_nothing_and_has_no_loss(with_criterion):
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3, rng=np.random.default_rng(0)), comm)
        criterion, x = npbn.CrossEntropyLoss(), np.zeros((0, 4), np.float32)
        criterion(net(x), np.zeros(0, int))
        upstream = criterion.backward()
        net.backward(upstream, criterion=criterion if with_criterion else None)
        assert net.loss is None or np.isnan(net.loss)
        assert (net.loss is None) != with_criterion
        for gradient, parameter in zip(grads(net), net.parameters(), strict=True):
            assert_same_bits(gradient, np.zeros_like(parameter.data))

    run(2, program)


def one_of(*nets):
    return lambda rank: nets[min(rank, 1)]()


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (
            one_of(lambda: npbn.Linear(4, 3), lambda: npbn.Linear(4, 2)),
            ["Linear(in_features=4, out_features=3", "out_features=2"],
        ),
        (
            one_of(lambda: npbn.Linear(4, 3), lambda: npbn.Linear(4, 3, dtype="f8")),
            ["weight (3, 4) float32", "weight (3, 4) float64"],
        ),
        (
            one_of(npbn.ReLU, npbn.Sigmoid),
            ["ReLU()", "Sigmoid()"],
        ),
        (
            one_of(
                lambda: npbn.Sequential(npbn.BatchNorm1d(3)),
                lambda: npbn.Sequential(npbn.BatchNorm1d(3), npbn.ReLU()),
            ),
            ["1: ReLU()"],
        ),
        (
            one_of(lambda: npbn.BatchNorm1d(3), lambda: npbn.BatchNorm1d(3, eps=0.1)),
            ["eps=1e-05", "eps=0.1"],
        ),
        (
            one_of(lambda: npbn.BatchNorm1d(3), lambda: npbn.BatchNorm1d(3).freeze()),
            ["weight frozen"],
        ),
    ],
)
def test_another_network_on_a_rank_is_refused_on_all_with_the_difference(make, fragments):
    message = fails(3, lambda comm: DataParallel(make(comm.rank), comm))
    for part in ["DataParallel", "rank 1: ", "rank 2: ", "rank 0's network", *fragments]:
        assert part in message, message
    assert "rank 0:" not in message
