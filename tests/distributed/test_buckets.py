"""What a step sends, and when: the gradients in buckets, while backward goes on."""

from unittest import mock

import numpy as np
import pytest
from distributed.networks import grads, mlp, parallel
from distributed.standin import run
from helpers import assert_same_bits, assert_within

import npbn
from npbn.distributed import DataParallel, buckets, train_step


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bucket", [1, 100, 256 * 1024])
def test_a_step_sends_what_the_docstrings_say_and_no_more(dtype, bucket):
    """For the losses 8 · 4 bytes, for each bucket its parameters and one number, and those of
    SyncBatchNorm: 8 · (2 + 2 C) forward and 8 · 2 C back."""
    itemsize = np.dtype(dtype).itemsize

    def program(comm):
        net, criterion = parallel(mlp(0, dtype), comm), npbn.CrossEntropyLoss()
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        x = np.random.default_rng(0).normal(size=(4, 4)).astype(dtype)
        comm.messages.clear()
        train_step(net, x, np.arange(4) % 3, criterion, optimizer)
        kinds = {}
        for message in comm.messages:
            name = "gradients" if message.what.startswith("gradients") else message.what
            kinds.setdefault(name, []).append((message.kind, message.bytes))
        sent = kinds.pop("gradients")
        assert kinds == {
            "SyncBatchNorm(5) forward": [("gather", 8 * (2 + 2 * 5))] * 2,
            "loss": [("gather", 8 * 4)],
            "SyncBatchNorm(5) backward": [("sum", 8 * 2 * 5)] * 2,
        }
        numbers = sum(parameter.data.size for parameter in net.parameters())
        assert {kind for kind, _ in sent} == {"sum"}
        assert sum(size for _, size in sent) == itemsize * numbers
        return len(sent)

    with mock.patch.object(buckets, "BUCKET_BYTES", bucket):
        counts = run(2, program)
    parameters = len(list(mlp().parameters()))
    assert len(set(counts)) == 1
    if bucket == 1:
        assert counts[0] == parameters
    elif bucket == 100:
        assert 1 < counts[0] < parameters
    else:
        assert counts[0] == 1


def test_the_size_of_a_bucket_is_exact():
    """Float64 numbers of 8 bytes, buckets of 80."""

    def sizes(*numbers):
        parameters = [npbn.Parameter(np.zeros(number)) for number in numbers]
        return [[p.data.size for p in bucket] for bucket in buckets.filled(parameters)]

    with mock.patch.object(buckets, "BUCKET_BYTES", 80):
        assert sizes(4, 6) == [[4, 6]]
        assert sizes(4, 7) == [[4], [7]]
        assert sizes(3, 9, 1) == [[3], [9, 1]]
        assert sizes(3, 10, 1) == [[10], [3, 1]]  # has one of its own, and leaves at once
        assert sizes(3, 11, 1) == [[11], [3, 1]]


def test_large_gradients_are_sent_alone_and_small_ones_together():
    def program(comm):
        net = DataParallel(npbn.MLP(300, 300, 10, use_batch_norm=False), comm)
        net(np.ones((2, 300), "f4"))
        comm.messages.clear()
        net.backward(np.ones((2, 10), "f4"))
        return [message.bytes for message in comm.messages if message.kind == "sum"]

    large, small = 300 * 300, 300 * 10 + 10 + 300 + 300  # fc1.weight, fc2.weight; all others
    for found in run(2, program):
        assert found == [4 * large, 4 * small, 4 * large]  # fc2.weight is there first


def test_buckets_leave_before_the_first_layer_is_reached_and_nobody_waits_for_them():
    def program(comm):
        net, criterion = parallel(mlp(), comm), npbn.CrossEntropyLoss()
        for name, layer in net.module.named_children():
            inner = layer._backward

            def spied(*arguments, name=name, inner=inner):
                comm.events.append(f"backward of {name}")
                return inner(*arguments)

            layer._backward = spied
        criterion(net(np.random.default_rng(0).normal(size=(4, 4))), np.arange(4) % 3)
        comm.events.clear()
        net.backward(criterion.backward(), criterion=criterion)
        return comm.events

    with mock.patch.object(buckets, "BUCKET_BYTES", 1):
        for events in run(2, program):
            at = {event: number for number, event in enumerate(events)}
            first = at["backward of fc1"]
            assert at["send gradients 0"] < at["backward of batch_norm2"]
            assert sum(event.startswith("send gradients") for event in events[:first]) == 7
            assert not any(event.startswith("receive gradients") for event in events[:first])
            assert sum(event.startswith("receive gradients") for event in events) == 8


def test_parameters_of_several_dtypes_go_into_buckets_of_their_own():
    class Cast(npbn.Module):
        def __init__(self, dtype):
            self.dtype = dtype

        def _apply(self, x, predict):
            return x.astype(self.dtype), x.dtype

        def _backward(self, grad_output, cache, input_grad):
            return grad_output.astype(cache)

    def make():
        rng = np.random.default_rng(0)
        return npbn.Sequential(
            npbn.Linear(4, 3, dtype="f8", rng=rng),
            Cast("f4"),
            npbn.Linear(3, 3, dtype="f4", rng=rng),
            npbn.BatchNorm1d(3),
            Cast("f2"),
            npbn.Linear(3, 3, dtype="f2", rng=rng),
            Cast("f8"),
        )

    rng = np.random.default_rng(1)
    x, upstream = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    alone = make()
    alone(x)
    alone.backward(upstream / 6)

    def program(comm):
        net, part = parallel(make(), comm), [slice(0, 2), slice(2, 6)][comm.rank]
        net(x[part])
        net.backward(upstream[part] / len(x[part]))
        sent = [m.bytes for m in comm.messages if m.what.startswith("gradients")]
        # A matrix and a bias each, last layer first; beside float32's those of BatchNorm.
        assert sent == [4 * (9 + 3), 4 * (9 + 3 + 3 + 3), 8 * (12 + 3)]
        return grads(net)

    found = run(2, program)
    for actual, grad, first in zip(found[1], grads(alone), found[0], strict=True):
        assert actual.dtype == grad.dtype
        assert_same_bits(actual, first)
        # At most 16 roundings to float16 on the way, of numbers up to the largest or 1.
        bound = 16 * float(np.finfo("f2").eps) * max(1, np.abs(grad).max())
        assert_within(actual, grad, bound)
