"""The loader of shards: one process's batches, cut up, in rank 0's order."""

import numpy as np
import pytest
from distributed.networks import close, mlp, parallel
from distributed.standin import Message, fails, run
from helpers import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.distributed import DataLoader, train_step
from npbn.errors import DataError

sizes = st.integers(1, 4)


def dataset(samples):
    """Numbers that tell which samples they are, and labels."""
    return npbn.ArrayDataset(np.arange(samples) * 10.0, np.arange(samples) % 3)


@given(
    size=sizes,
    samples=st.integers(4, 20),
    batch_size=st.integers(4, 9),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seeds=st.permutations(range(4)),
)
def test_shards_are_one_processs_batches_cut_into_runs(
    size, samples, batch_size, shuffle, drop_last, seeds
):
    """Whatever the other ranks' seeds; run r of P has a sample more, or none, in a short batch."""
    options = (dataset(samples), batch_size, shuffle, drop_last)

    def program(comm):
        loader = DataLoader(*options, np.random.default_rng(seeds[comm.rank]), comm)
        return len(loader), [list(loader), list(loader)]

    alone = npbn.DataLoader(*options, np.random.default_rng(seeds[0]))
    lengths, epochs = zip(*run(size, program), strict=True)
    assert set(lengths) == {len(alone)}
    for shards in zip(*epochs, strict=True):  # of one epoch, by rank
        for batch, *parts in zip(alone, *shards, strict=True):
            numbers = [len(labels) for _, labels in parts]
            assert numbers == sorted(numbers, reverse=True)
            assert numbers[0] - numbers[-1] <= 1
            for whole, *of_ranks in zip(batch, *parts, strict=True):
                assert_same_bits(np.concatenate(of_ranks), whole)


def test_the_last_batch_may_have_fewer_samples_than_there_are_ranks():
    """Some shards are empty then: training goes on, and is that of one process."""
    rng = np.random.default_rng(0)
    data = npbn.ArrayDataset(rng.normal(size=(20, 4)), rng.integers(3, size=20))
    alone, epochs = mlp(0), range(2)
    optimizer = npbn.SGD(alone.parameters(), lr=0.02)
    expected = [
        npbn.train_step(alone, x, target, npbn.CrossEntropyLoss(), optimizer)[0]
        for loader in [npbn.DataLoader(data, 9, True, rng=np.random.default_rng(0))]
        for _ in epochs
        for x, target in loader
    ]

    def program(comm):
        net = parallel(mlp(comm.rank), comm)
        optimizer = npbn.SGD(net.parameters(), lr=0.02)
        loader = DataLoader(data, 9, True, rng=np.random.default_rng(comm.rank), comm=comm)
        found = [(x, target) for _ in epochs for x, target in loader]
        assert [len(x) for x, _ in found].count(0) == (2 if comm.rank > 1 else 0)
        criterion = npbn.CrossEntropyLoss()
        losses = [train_step(net, x, target, criterion, optimizer)[0] for x, target in found]
        return losses, net.module.state_dict()

    for losses, state in run(4, program):
        close(losses, expected, "losses")
        for key, value in alone.state_dict().items():
            close(state[key], value, key)


def test_every_ranks_generator_is_drawn_from():
    """So that a rank's stream is where one process's would be."""

    def program(comm):
        rng, twin = np.random.default_rng(comm.rank), np.random.default_rng(comm.rank)
        list(DataLoader(dataset(8), 4, shuffle=True, rng=rng, comm=comm))
        twin.permutation(8)
        assert rng.bit_generator.state == twin.bit_generator.state

    run(3, program)


def test_an_epoch_exchanges_its_order_alone_and_that_only_if_shuffled():
    def program(comm):
        for shuffle in (False, True):
            loader = DataLoader(dataset(8), 4, shuffle, rng=np.random.default_rng(0), comm=comm)
            comm.messages.clear()
            list(loader)
            order = Message("broadcast", "order of the samples", 0 if comm.rank else 8 * 8)
            assert comm.messages == [order] * shuffle

    run(3, program)


def test_one_rank_exchanges_nothing():
    def program(comm):
        loader = DataLoader(dataset(7), 3, True, rng=np.random.default_rng(0), comm=comm)
        alone = npbn.DataLoader(dataset(7), 3, True, rng=np.random.default_rng(0))
        for found, batch in zip(loader, alone, strict=True):
            for actual, expected in zip(found, batch, strict=True):
                assert_same_bits(actual, expected)
        assert comm.messages == []

    run(1, program)


# -- refusals -------------------------------------------------------------------------------------


def test_more_ranks_than_samples_are_refused():
    message = fails(4, lambda comm: DataLoader(dataset(3), 4, comm=comm), DataError)
    assert message == "DataLoader: expected at least a sample for each of the 4 ranks, got 3"


def test_more_ranks_than_samples_in_a_batch_are_refused():
    message = fails(4, lambda comm: DataLoader(dataset(9), 3, comm=comm), ValueError)
    assert message == "DataLoader: expected a batch_size, over all ranks, of at least 4, got 3"


@pytest.mark.parametrize(
    ("option", "first", "other"),
    [("samples", 8, 9), ("batch_size", 4, 5), ("shuffle", False, True), ("drop_last", False, True)],
)
def test_other_options_on_a_rank_are_named_on_all(option, first, other):
    def program(comm):
        options = {"samples": 8, "batch_size": 4, "shuffle": False, "drop_last": False}
        options[option] = other if comm.rank == 1 else first
        samples = options.pop("samples")
        DataLoader(dataset(samples), **options, comm=comm)

    message = fails(3, program)
    mine, theirs = message.split(", rank 0 has ")
    assert mine.startswith("DataLoader: rank 1: ")
    assert f"{option} {other:d}" in mine
    assert f"{option} {first:d}" in theirs
    assert "rank 2" not in message
