"""Ranks with arrays that are read-only begin alike or not at all.

Issue 16, number 8.
"""

from distributed.standin import fails

import npbn
from npbn.distributed import DataParallel


def fix(module, name):
    getattr(module, name).flags.writeable = False
    return module


def numbers(net):
    return {key: array.tolist() for key, array in net.state_dict().items()}


def test_ranks_begin_alike_or_not_at_all():
    def program(comm):
        net = npbn.Sequential(npbn.Linear(2, 2), npbn.BatchNorm1d(2))
        if comm.rank == 1:
            fix(net[1], "running_var")
        before = numbers(net)
        try:
            DataParallel(net, comm)
        finally:
            assert numbers(net) == before

    assert fails(2, program) == (
        "DataParallel: rank 1: expected arrays that can be written to, got a read-only "
        "1.running_var"
    )
