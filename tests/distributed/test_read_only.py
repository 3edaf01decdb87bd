"""Ranks with arrays that are read-only begin alike or not at all."""

import numpy as np
import pytest
from distributed.standin import fails, run
from helpers import make_read_only, values_of

import npbn
from npbn.distributed import DataParallel, train_step
from npbn.errors import DataError


def test_a_step_of_training():
    def program(comm):
        net = DataParallel(npbn.Sequential(npbn.BatchNorm1d(2), npbn.Linear(2, 2)), comm)
        before = values_of(make_read_only(net, "module.1.bias"))
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        x, target = np.eye(2, dtype="f4"), np.arange(2)
        sent = len(comm.messages)
        with pytest.raises(ValueError, match="expected parameters that can be written to"):
            train_step(net, x, target, npbn.CrossEntropyLoss(), optimizer)
        assert values_of(net) == before
        assert all(parameter.grad is None for parameter in net.parameters())
        assert len(comm.messages) == sent

    run(2, program)


def test_statistics_of_rank_0_are_shared_with_all_layers_or_none():
    def program(comm):
        net = npbn.Sequential(npbn.BatchNorm1d(2), npbn.BatchNorm1d(2).freeze())
        net = DataParallel(net, comm)
        net.module[1].running_mean += comm.rank
        before = values_of(make_read_only(net, "module.1.running_var"))
        with pytest.raises(ValueError, match="read-only"):
            net(np.eye(2, dtype="f4"))
        assert values_of(net) == before

    run(2, program)


def test_statistics_of_rank_0_are_taken_back_when_the_loss_refuses_a_target():
    """Those of frozen layers too, which a forward pass does not change otherwise."""

    def program(comm):
        layers = npbn.BatchNorm1d(2), npbn.BatchNorm1d(2).freeze()
        net = DataParallel(npbn.Sequential(*layers), comm)
        net.module[1].running_mean += comm.rank
        before, optimizer = values_of(net), npbn.SGD(net.parameters(), lr=0.1)
        x, target = np.eye(2, dtype="f4"), np.array([0, 7])
        with pytest.raises(DataError):
            train_step(net, x, target, npbn.CrossEntropyLoss(), optimizer)
        assert values_of(net) == before
        assert len(comm.messages) > 1

    run(2, program)


def test_ranks_begin_alike_or_not_at_all():
    def program(comm):
        net = npbn.Sequential(npbn.Linear(2, 2), npbn.BatchNorm1d(2))
        if comm.rank == 1:
            make_read_only(net[1], "running_var")
        before = values_of(net)
        try:
            DataParallel(net, comm)
        finally:
            assert values_of(net) == before

    assert fails(2, program) == (
        "DataParallel: rank 1: expected arrays that can be written to, got a read-only "
        "1.running_var"
    )
