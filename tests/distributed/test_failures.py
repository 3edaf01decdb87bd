"""A backward pass that fails on one rank: all hear of it, and gradients stay as they were."""

import copy
from unittest import mock

import numpy as np
import pytest
from distributed.networks import grads, mlp, parallel
from distributed.standin import fails, outcomes, run
from helpers import assert_same_bits

import npbn
from npbn.distributed import DataParallel, buckets
from npbn.errors import BackwardError, DistributedError, ShapeError


class Broken(npbn.Module):
    """Fails in the middle of the backward pass, when told to."""

    broken = False

    def _apply(self, x, predict):
        return x, None

    def _backward(self, grad_output, cache, input_grad):
        if self.broken:
            raise ValueError("the disk is full")
        return grad_output


@pytest.mark.parametrize("size", [1, 3])
def test_an_exception_in_backward_leaves_gradients_and_removes_hooks(size):
    def program(comm):
        net = mlp()
        net = npbn.Sequential(net[:3], Broken(), net[3:])
        net = parallel(net, comm)
        x = np.random.default_rng(comm.rank).normal(size=(3, 4))
        net(x)
        net.backward(net(x))
        before = copy.deepcopy(grads(net))
        held = grads(net)
        net.module[1].broken = comm.rank == size - 1
        y = net(x)
        try:
            net.backward(y)
        finally:
            assert not any(parameter._hooks for parameter in net.parameters())
            for now, then, its_copy in zip(grads(net), held, before, strict=True):
                if size > 1:
                    assert now is then
                    assert_same_bits(now, its_copy)

    with mock.patch.object(buckets, "BUCKET_BYTES", 1):
        *others, last = outcomes(size, program)
    assert isinstance(last, ValueError)
    assert all(isinstance(other, DistributedError) for other in others)


def test_gradients_that_are_not_finite_are_named_and_leave_gradients_as_they_were():
    def program(comm):
        net = parallel(mlp(), comm)
        x = np.random.default_rng(comm.rank).normal(size=(3, 4))
        net(x)
        net.backward(net.predict(x))
        held = grads(net)
        if comm.rank == 1:
            inner = net.module.fc1._backward
            net.module.fc1._backward = lambda grad, *rest: inner(grad * np.inf, *rest)
        net(x)
        try:
            with np.errstate(invalid="ignore"):
                net.backward(net.predict(x))
        finally:
            assert all(now is then for now, then in zip(grads(net), held, strict=True))
            assert not any(parameter._hooks for parameter in net.parameters())

    with mock.patch.object(buckets, "BUCKET_BYTES", 1):
        assert fails(3, program) == "gradients: rank 1: NaN or infinite values"


def test_large_finite_gradients_whose_squares_overflow_are_no_failure_and_no_warning():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3, rng=np.random.default_rng(0)), comm)
        net(np.ones((2, 4), "f4"))
        net.backward(np.full((2, 3), 1e30, "f4"))
        # Powers of two times 1e30: no rounding.
        assert_same_bits(net.module.bias.grad, np.full(3, 2 * np.float32(1e30)))

    run(2, program)


def test_finite_gradients_whose_sum_overflows_say_so():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3, rng=np.random.default_rng(0)), comm)
        criterion = npbn.MSELoss("sum")
        criterion(net(np.ones((2, 4), "f4")), np.zeros((2, 3), "f4"))
        net.backward(np.full((2, 3), 1.5e38, "f4"), criterion=criterion)

    # 3e38 on each rank, of at most 3.4e38.
    assert fails(2, program) == "gradients: finite values on each rank, but their sum is not finite"


@pytest.mark.parametrize("with_criterion", [False, True])
def test_a_loss_that_is_not_finite_is_named_on_all_ranks(with_criterion):
    def program(comm):
        net, criterion = DataParallel(npbn.Linear(4, 3), comm), npbn.CrossEntropyLoss()
        x = np.random.default_rng(comm.rank).normal(size=(3, 4)).astype("f4")
        if comm.rank == 1:
            x[0, 0] = np.nan
        criterion(net(x), np.arange(3))
        net.backward(criterion.backward(), criterion=criterion if with_criterion else None)

    assert "expected a finite loss on all ranks, got rank 1: loss nan" in fails(3, program)


def test_different_reductions_are_refused_on_all_ranks():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3), comm)
        criterion = npbn.CrossEntropyLoss(reduction=["mean", "sum"][comm.rank])
        criterion(net(np.ones((3, 4), "f4")), np.arange(3))
        net.backward(criterion.backward(), criterion=criterion)

    assert "expected one reduction on all ranks" in fails(2, program)


def test_backward_needs_a_forward_pass_and_a_gradient_of_its_shape():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3), comm)
        with pytest.raises(BackwardError):
            net.backward(np.ones((2, 3), "f4"))
        net(np.ones((2, 4), "f4"))
        with pytest.raises(ShapeError):
            net.backward(np.ones((2, 2), "f4"))
        assert not any(parameter._hooks for parameter in net.parameters())
        net.backward(np.ones((2, 3), "f4"))

    run(2, program)
