"""SyncBatchNorm's messages, and what it refuses on all ranks alike."""

from unittest import mock

import numpy as np
import pytest
from distributed.standin import Message, fails, outcomes, run
from helpers import assert_same_bits

from npbn.distributed import SyncBatchNorm, sync_batch_norm
from npbn.errors import BatchSizeError, DistributedError, DtypeError, ShapeError

# Statistics are gathered by up to GATHER ranks, and added by more.
roads = pytest.mark.parametrize("gather", [16, 0], ids=["gathered", "summed"])


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
    assert "finite values on each rank, but their sum is not finite" in message


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (np.ones((4, 4), "f4"), ShapeError, ["(4, 4)"]),
        (np.ones((4, 3), "f8"), DtypeError, ["float32", "float64"]),
    ],
    ids=["shape", "dtype"],
)
def test_an_input_that_one_rank_refuses_stops_the_others_with_the_reason(x, kind, words):
    def program(comm):
        SyncBatchNorm(3, comm=comm)(x if comm.rank == 1 else np.ones((4, 3), "f4"))

    first, second, third = outcomes(3, program)
    assert type(second) is kind
    assert all(word in str(second) for word in words)
    for other in (first, third):
        assert isinstance(other, DistributedError)
        assert f"rank 1 raised {kind.__name__}: {second}" in str(other)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 1, 1, 1, 1)])
def test_inputs_of_2_to_5_dimensions_only_are_taken(shape):
    def program(comm):
        SyncBatchNorm(3, comm=comm)(np.ones(shape, np.float32))

    for size in (1, 2):
        message = fails(size, program, ShapeError)
        assert "(N, 3) or (N, 3, L)" in message
        assert f"got {shape}" in message
