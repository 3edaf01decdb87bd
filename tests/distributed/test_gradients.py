"""Gradients of networks of all sorts: several passes, frozen, shared and unreached layers."""

import copy
from unittest import mock

import numpy as np
import pytest
from distributed.networks import close, grads, mlp, parallel, twice_network
from distributed.standin import run
from helpers import assert_same_bits

import npbn
from npbn.distributed import buckets


def compare_passes(make, prepare=lambda net: None, passes=1, seed=0, size=3, width=4, bucket=1):
    """Gradients of `passes` backward passes on shards are those on whole batches."""
    rng = np.random.default_rng(seed)
    shards = [slice(0, 1), slice(1, 1), slice(1, 6), slice(6, 6)][:size]
    xs, upstreams = rng.normal(size=(passes, 6, width)), rng.normal(size=(passes, 6, 3))
    alone = make()
    prepare(alone)
    for x, upstream in zip(xs, upstreams, strict=True):
        alone(x)
        alone.backward(upstream / 6)

    def program(comm):
        net = make()
        prepare(net)
        net, part = parallel(net, comm), shards[comm.rank]
        for x, upstream in zip(xs, upstreams, strict=True):
            net(x[part])
            net.backward(upstream[part] / max(len(x[part]), 1), input_grad=False)
        assert not any(parameter._hooks for parameter in net.parameters())
        return grads(net)

    with mock.patch.object(buckets, "BUCKET_BYTES", bucket):
        found = run(size, program)
    expected = grads(alone)
    for mine in found:
        for actual, grad, first in zip(mine, expected, found[0], strict=True):
            assert (actual is None) == (grad is None)
            assert_same_bits(actual, first)
            if grad is not None:
                close(actual, grad)
    return expected


@pytest.mark.parametrize("bucket", [1, 256 * 1024])
def test_gradients_of_several_passes_accumulate(bucket):
    compare_passes(mlp, passes=3, bucket=bucket)


@pytest.mark.parametrize("bucket", [1, 256 * 1024])
def test_frozen_parameters_get_no_gradient_and_are_not_sent(bucket):
    def prepare(net):
        net.fc2.freeze()
        net.batch_norm1.freeze()
        net.fc3.bias.requires_grad = False

    expected = compare_passes(mlp, prepare, bucket=bucket)
    assert sum(grad is None for grad in expected) == 4


def test_a_network_of_frozen_parameters_alone():
    assert compare_passes(mlp, lambda net: net.freeze()) == [None] * 8


def shared_network():
    rng = np.random.default_rng(0)
    shared = npbn.Linear(3, 3, dtype="f8", rng=rng)
    norm = npbn.BatchNorm1d(3, dtype="f8")
    first = npbn.Linear(4, 3, dtype="f8", rng=rng)
    return npbn.Sequential(first, shared, norm, npbn.Sigmoid(), shared, norm)


def tied_network():
    """Two layers with one weight."""
    net = npbn.Sequential(
        npbn.Linear(4, 4, dtype="f8", rng=np.random.default_rng(0)),
        npbn.Sigmoid(),
        npbn.Linear(4, 4, bias=False, dtype="f8"),
        npbn.Linear(4, 3, dtype="f8", rng=np.random.default_rng(1)),
    )
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize("make", [shared_network, twice_network, tied_network])
@pytest.mark.parametrize("bucket", [1, 256 * 1024])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_parameter_with_several_gradients_gets_their_sum(make, bucket, passes):
    compare_passes(make, bucket=bucket, passes=passes)


class SkipsEmpty(npbn.Module):
    """Leaves its child out where there is nothing to compute."""

    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        return self.inner._apply(x, predict) if len(x) else (x, None)

    def _backward(self, grad_output, cache, input_grad):
        return grad_output if cache is None else self.inner._backward(grad_output, cache, True)


def test_a_layer_that_only_some_ranks_reach_has_the_same_gradient_on_all():
    """The sum over the ranks is what those that did reach it give; all take the same step."""

    def make():
        rng = np.random.default_rng(0)
        return npbn.Sequential(
            npbn.Linear(4, 3, dtype="f8", rng=rng),
            SkipsEmpty(npbn.Linear(3, 3, dtype="f8", rng=rng)),
        )

    compare_passes(make)


def test_a_layer_that_no_rank_reaches_gets_no_gradient():
    def prepare(net):
        net.unused = npbn.Module()
        net.unused.layer = npbn.Linear(3, 3, dtype="f8")
        net.unused._apply = lambda x, predict: (x, None)
        net.unused._backward = lambda grad, cache, wanted: grad

    expected = compare_passes(mlp, prepare)
    assert sum(grad is None for grad in expected) == 2


def wide_network():
    """Its gradients are large enough to be added where they lie."""
    return npbn.MLP(4, 300, 3, dtype="f8", rng=np.random.default_rng(0))


@pytest.mark.parametrize("make", [mlp, twice_network, wide_network])
def test_a_gradient_belongs_to_the_parameter_and_is_not_overwritten_later(make):
    assert buckets.BUCKET_BYTES < 300 * 300 * 8

    def program(comm):
        net = parallel(make(), comm)
        rng = np.random.default_rng(comm.rank)
        kept = []
        for _ in range(3):
            net.zero_grad()
            net(rng.normal(size=(3, 4)))
            net.backward(rng.normal(size=(3, 3)))
            kept.append((grads(net), copy.deepcopy(grads(net))))
        for held, copies in kept:
            for grad, its_copy in zip(held, copies, strict=True):
                assert_same_bits(grad, its_copy)
                assert grad.flags.writeable
        for first, second in zip(kept[0][1], kept[1][1], strict=True):
            assert (first != second).any(), "nothing that could have been overwritten"

    run(2, program)
