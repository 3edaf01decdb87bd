"""evaluate over all ranks against evaluate of the whole batches."""

import numpy as np
import pytest
from distributed.networks import close, mlp, parallel, state_bytes
from distributed.standin import Message, cuts, fails, run
from helpers import assert_same_bits, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.distributed import DataParallel, evaluate
from npbn.errors import DataError

sizes = st.integers(1, 4)
CRITERIA = {
    "none given": lambda: None,
    "weighted": lambda: npbn.CrossEntropyLoss([0.1, 2.0, 5.0], -1, label_smoothing=0.3),
    "a sum": lambda: npbn.CrossEntropyLoss(reduction="sum"),
    "a function": lambda: lambda logits, target: float(np.square(logits).mean()),
}


def trained(seed=0):
    """A network whose running statistics are none it began with, nor those of the batches."""
    net = mlp(seed)
    net(np.random.default_rng(9).normal(size=(12, 4)))
    return net


def drawn(rng, counts):
    return [(rng.normal(size=(n, 4)), rng.integers(3, size=n)) for n in counts]


def shards_of(batches, shards, rank):
    """This rank's shard of each batch, each of which is cut as `shards` say."""
    pairs = zip(batches, shards, strict=True)
    return [(x[parts[rank]], target[parts[rank]]) for (x, target), parts in pairs]


def assert_same_evaluation(batches, shards, make_criterion, train_mode=False):
    """Compare with one process, and the ranks to the bit; the network stays as it was."""
    options = {"criterion": make_criterion(), "train_mode": train_mode}
    expected = npbn.evaluate(trained(), batches, **options)

    def program(comm):
        net, criterion = parallel(trained(comm.rank), comm), make_criterion()
        before = state_bytes(net)
        mine = iter(shards_of(batches, shards, comm.rank))
        found = evaluate(net, mine, comm, criterion, train_mode=train_mode)
        assert net.training
        assert state_bytes(net) == before
        assert getattr(criterion, "loss", None) is None
        return found

    results = run(len(shards[0]), program)
    for found in results:
        assert found.loss == results[0].loss or np.isnan(expected.loss)
        close(found.loss, expected.loss, "loss")
        assert_same_bits(found.correct, expected.correct)
        assert_same_bits(found.total, expected.total)
    return expected


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("train_mode", [False, True])
@given(data=st.data(), rng=rngs(), size=sizes)
def test_evaluation_of_shards_is_that_of_the_whole_batches(criterion, train_mode, data, rng, size):
    """Of less than 8 samples a batch statistics are ill-conditioned, and 1e-12 too much to ask."""
    least = 8 if train_mode else 1
    batches = drawn(rng, data.draw(st.lists(st.integers(least, 10), min_size=1, max_size=3)))
    shards = [cuts(data.draw, len(x), size) for x, _ in batches]
    if criterion == "weighted":  # where a rank has none that counts, others have
        for (_, target), parts in zip(batches, shards, strict=True):
            target[parts[data.draw(st.integers(0, size - 1))]] = -1
            target[0] = 1
    expected = assert_same_evaluation(batches, shards, CRITERIA[criterion], train_mode)
    assert np.isfinite(expected.loss)


def test_a_batch_of_ignored_targets_counts_for_nothing_as_in_one_process():
    batches = drawn(np.random.default_rng(0), [5, 4])
    batches[0][1][:] = -1
    shards = [[slice(0, 2), slice(2, 2), slice(2, None)]] * 2
    expected = assert_same_evaluation(batches, shards, CRITERIA["weighted"])
    assert np.isfinite(expected.loss)
    assert expected.total.sum() == 4
    batches[1][1][:] = -1
    assert np.isnan(assert_same_evaluation(batches, shards, CRITERIA["weighted"]).loss)


def test_a_batch_that_is_empty_on_all_ranks_counts_for_nothing():
    batches = drawn(np.random.default_rng(0), [5, 0])
    expected = npbn.evaluate(trained(), batches[:1])
    for found in run(2, lambda comm: evaluate(trained(), batches, comm)):
        close(found.loss, expected.loss, "loss")  # both ranks have all samples
        assert_same_bits(found.total, 2 * expected.total)


def test_the_ranks_means_are_not_averaged():
    """So that the tests above can fail: it would be off by far more than they allow."""
    ((x, target),) = batches = drawn(np.random.default_rng(0), [9])
    parts = [slice(0, 1), slice(1, 9)]
    whole = assert_same_evaluation(batches, [parts], CRITERIA["none given"])
    each = [npbn.evaluate(trained(), [(x[part], target[part])]).loss for part in parts]
    assert abs(np.mean(each) - whole.loss) > 1e-3


@pytest.mark.parametrize("batches", [1, 3])
def test_two_gathers_of_a_size_that_classes_decide(batches):
    """A stamp, and 2 numbers; a stamp, 3 numbers and 2 a class."""
    loader = drawn(np.random.default_rng(0), [6] * batches)

    def program(comm):
        net = DataParallel(mlp(), comm)
        comm.messages.clear()
        evaluate(net, loader, comm)
        assert comm.messages == [
            Message("gather", "evaluate", 8 * (1 + 2)),
            Message("gather", "evaluate", 8 * (1 + 3 + 2 * 3)),
        ]

    run(3, program)


@pytest.mark.parametrize("train_mode", [False, True])
def test_one_rank_exchanges_nothing_and_finds_what_one_process_does(train_mode):
    batches = drawn(np.random.default_rng(0), [8, 9])

    def program(comm):
        found = evaluate(parallel(trained(), comm), batches, comm, train_mode=train_mode)
        assert comm.messages == []
        return found

    (found,) = run(1, program)
    expected = npbn.evaluate(trained(), batches, train_mode=train_mode)
    close(found.loss, expected.loss)
    assert_same_bits(found.correct, expected.correct)
    assert_same_bits(found.total, expected.total)


# -- refusals -------------------------------------------------------------------------------------


def test_different_numbers_of_batches_are_named_on_all_ranks():
    batches = drawn(np.random.default_rng(0), [4, 4])
    message = fails(3, lambda comm: evaluate(mlp(), batches[: 2 - comm.rank], comm))
    assert message == (
        "evaluate: expected the same number of batches (and classes) on each rank, "
        "got 2 (3), 1 (3), 0 (0)"
    )


def test_different_numbers_of_classes_are_named_on_all_ranks():
    batches = drawn(np.random.default_rng(0), [4])
    message = fails(
        2, lambda comm: evaluate(npbn.MLP(4, 5, 3 + comm.rank, dtype="f8"), batches, comm)
    )
    assert message.endswith("got 1 (3), 1 (4)")


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
@pytest.mark.parametrize("size", [1, 2])
def test_no_sample_at_all_is_an_error_on_all_ranks(counts, size):
    batches = drawn(np.random.default_rng(0), counts)
    message = fails(size, lambda comm: evaluate(mlp(), batches, comm), DataError)
    assert "expected at least one batch" in message
