"""Statistics of a data set of which every rank has a part, against one process.

`update_batch_norm` with a distributed loader gave each rank its own shard's
mean: of rows 0 to 7 in two batches 1.5 and 5.5 (or so), where one process finds 3.5.
"""

import copy

import numpy as np
import pytest
import torch
from distributed.networks import parallel
from distributed.standin import fails, run
from helpers import assert_same_bits, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn import distributed, torch_reference
from npbn.distributed import DataParallel, SyncBatchNorm, convert_sync_batch_norm
from npbn.errors import ConfigError, DataError, DistributedError

ROWS = np.arange(8.0)[:, None]
BOTH = pytest.mark.parametrize("average_batches", [False, True])
KINDS = {
    "plain": lambda net, comm: net,
    "synchronised": convert_sync_batch_norm,
    "parallel": DataParallel,
    "synchronised and parallel": lambda net, comm: parallel(net, comm),
}


def loader(x, batch_size, comm):
    target = np.zeros(len(x), int)
    return distributed.DataLoader(npbn.ArrayDataset(x, target), batch_size, comm=comm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [4, 8])
def test_the_issues_values(kind, batch_size):
    def program(comm):
        bn = KINDS[kind](npbn.BatchNorm1d(1, dtype="f8"), comm)
        distributed.update_batch_norm(bn, loader(ROWS, batch_size, comm), comm)
        bn = getattr(bn, "module", bn)
        return bn.running_mean.item(), bn.running_var.item(), bn.num_batches_tracked.item()

    assert run(2, program) == [(3.5, 6.0, 8 // batch_size)] * 2


def make(rng):
    net = npbn.Sequential(
        npbn.BatchNorm1d(3, dtype="f8"),
        npbn.Linear(3, 2, dtype="f8", rng=rng),
        npbn.BatchNorm1d(2, dtype="f8"),
        npbn.BatchRenorm1d(2, 3.0, 5.0, dtype="f8").freeze(),
    )
    for norm in (net[0], net[2]):
        norm.weight.data[...] = rng.uniform(0.5, 2, norm.weight.shape)
    return net


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@given(
    rng=rngs(), size=st.integers(1, 4), counts=st.lists(st.sampled_from([0, 3, 8, 9]), min_size=1)
)
def test_the_statistics_are_those_of_one_process(kind, average_batches, rng, size, counts):
    """Shards of 3 rows are empty on some of four ranks, those of no rows on all."""
    net, counts = make(rng), [8, *counts]
    batches = [rng.normal(2, 3, size=(n, 3)) for n in counts]
    alone = copy.deepcopy(net)
    npbn.update_batch_norm(alone, batches, average_batches=average_batches)

    def program(comm):
        mine = KINDS[kind](copy.deepcopy(net), comm)
        shards = [np.array_split(x, comm.size)[comm.rank] for x in batches]
        distributed.update_batch_norm(mine, shards, comm, average_batches=average_batches)
        return getattr(mine, "module", mine).state_dict()

    states = run(size, program)
    for key, expected in alone.state_dict().items():
        # Of a batch of 3 a Linear's output may be nearly constant, and what is behind it is
        # divided by its deviation: the numbers agree to far less than in the first layer.
        bound = 1e-13 if key.startswith("0.") else 1e-8
        np.testing.assert_allclose(states[0][key], expected, rtol=bound, atol=bound, err_msg=key)
        for other in states[1:]:
            assert_same_bits(other[key], states[0][key], key)


@given(rng=rngs())
def test_ghosts_and_renormalisation_average_over_the_batches_of_all_ranks(rng):
    batches = [rng.normal(2, 3, size=(8, 2)) for _ in range(3)]
    whole = [part for x in batches for part in np.array_split(x, 4)]

    def program(comm):
        net = npbn.Sequential(
            npbn.GhostBatchNorm1d(2, 2, dtype="f8"), npbn.BatchRenorm1d(2, 3.0, 5.0, dtype="f8")
        )
        shards = [np.array_split(x, comm.size)[comm.rank] for x in batches]
        distributed.update_batch_norm(net, shards, comm, average_batches=True)
        return net

    for net in run(2, program):
        assert [norm.num_batches_tracked for norm in net] == [12, 6]
        means, variances = (
            np.mean(f, axis=0)
            for f in ([x.mean(axis=0) for x in whole], [x.var(axis=0, ddof=1) for x in whole])
        )
        np.testing.assert_allclose(net[0].running_mean, means, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(net[0].running_var, variances, rtol=1e-13)
        assert np.abs(net[1].running_mean).max() < 1e-13


# -- what is of one process -----------------------------------------------------------------------


class Bar:
    """A progress bar around a loader."""

    def __init__(self, iterable):
        self.iterable = iterable

    def __iter__(self):
        return iter(self.iterable)


@BOTH
@pytest.mark.parametrize("wrap", [Bar, lambda loader: loader])
def test_the_functions_of_one_process_refuse_shards_and_name_those_that_take_them(
    wrap, average_batches
):
    def program(comm):
        net, shards = npbn.Sequential(npbn.BatchNorm1d(1, dtype="f8")), wrap(loader(ROWS, 4, comm))
        model = torch.nn.BatchNorm1d(1, dtype=torch.float64)
        criterion, before = npbn.CrossEntropyLoss(), net.state_dict()
        optimizer = npbn.SGD(net.parameters())
        for name, call in {
            "update_batch_norm": lambda: npbn.update_batch_norm(
                net, shards, average_batches=average_batches
            ),
            "evaluate": lambda: npbn.evaluate(net, shards),
            "train_epoch": lambda: npbn.train_epoch(net, shards, criterion, optimizer),
        }.items():
            with pytest.raises(DistributedError, match=rf"2 ranks.* npbn\.distributed\.{name}$"):
                call()
            assert hasattr(distributed, name)
        its = torch.nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters())
        for call in (
            lambda: torch_reference.evaluate(model, shards),
            lambda: torch_reference.train_epoch(model, shards, *its),
        ):
            with pytest.raises(DistributedError, match="2 ranks"):
                call()
        for key, array in net.state_dict().items():
            assert_same_bits(array, before[key])

    run(2, program)


@BOTH
def test_synchronised_networks_are_refused_too(average_batches):
    def program(comm):
        for net in (SyncBatchNorm(1, comm=comm, dtype="f8"), DataParallel(npbn.Identity(), comm)):
            with pytest.raises(DistributedError, match=f"a {type(net).__name__} of 2 ranks"):
                npbn.update_batch_norm(net, [ROWS], average_batches=average_batches)

    run(2, program)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("train_step", lambda net, *batch, **how: npbn.train_step(net, *batch, **how)),
        ("train_epoch", lambda net, *batch, **how: npbn.train_epoch(net, [batch], **how)),
        ("evaluate", lambda net, *batch, **how: npbn.evaluate(net, [batch])),
        ("evaluate", lambda net, *batch, **how: npbn.evaluate(net, [batch], train_mode=True)),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda comm: DataParallel(npbn.Linear(2, 2, dtype="f8"), comm),
        lambda comm: npbn.Sequential(SyncBatchNorm(2, comm=comm, dtype="f8")),
    ],
)
def test_training_and_evaluation_of_one_process_refuse_networks_of_several_ranks(name, call, make):
    """A step would take the gradient of this rank's shard alone."""

    def program(comm):
        net = make(comm)
        before, sent = net.state_dict(), len(comm.messages)
        how = {"criterion": npbn.CrossEntropyLoss(), "optimizer": npbn.SGD(net.parameters(), lr=1)}
        with pytest.raises(DistributedError, match=rf"2 ranks; use npbn\.distributed\.{name}$"):
            call(net, np.eye(2), np.arange(2), **how)
        assert len(comm.messages) == sent
        for key, array in net.state_dict().items():
            assert_same_bits(array, before[key])

    run(2, program)


def test_one_rank_is_one_process():
    def program(comm):
        net = convert_sync_batch_norm(npbn.Sequential(npbn.BatchNorm1d(1, dtype="f8")), comm)
        npbn.update_batch_norm(net, loader(ROWS, 4, comm))
        assert comm.messages == []
        return net[0].running_mean.item()

    assert run(1, program) == [3.5]


# -- failures on all ranks ------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("shards", [[], [ROWS[:0]]])
def test_no_data_on_any_rank(average_batches, shards):
    message = fails(
        2,
        lambda comm: distributed.update_batch_norm(
            npbn.BatchNorm1d(1, dtype="f8"), shards, comm, average_batches=average_batches
        ),
        DataError,
    )
    assert "expected a loader with data" in message


def test_a_layer_that_cannot_be_synchronised_is_measured_without_averages():
    class Clipping(npbn.BatchNorm1d):
        def _apply(self, x, predict):
            return super()._apply(np.clip(x, 0, 4), predict)

    def program(comm, **how):
        bn = Clipping(1, dtype="f8")
        distributed.update_batch_norm(bn, loader(ROWS, 4, comm), comm, **how)
        return bn.running_mean.item()

    message = fails(2, lambda comm: program(comm, average_batches=True), ConfigError)
    assert message.startswith("update_batch_norm: average_batches=True synchronises")
    assert message.endswith("average_batches=False takes any layer")
    assert run(2, program) == [np.clip(ROWS, 0, 4).mean()] * 2
    assert run(1, lambda comm: program(comm, average_batches=True)) == [2.75]


def test_different_numbers_of_batches():
    message = fails(
        2,
        lambda comm: distributed.update_batch_norm(
            npbn.BatchNorm1d(1, dtype="f8"), [ROWS] * (1 + comm.rank), comm
        ),
    )
    assert (
        message == "update_batch_norm: expected the same number of batches on each rank, got 1, 2"
    )
