"""Statistics that are read-only are refused before a pass is made.

Issue 16, number 8.
"""

import numpy as np
import pytest

import npbn
from npbn.population import update_batch_norm

STATISTICS = ["running_mean", "running_var", "num_batches_tracked"]


def fix(module, name):
    getattr(module, name).flags.writeable = False
    return module


def numbers(net):
    return {key: array.tolist() for key, array in net.state_dict().items()}


@pytest.mark.parametrize("average_batches", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_population(name, average_batches):
    net = npbn.Sequential(npbn.BatchNorm1d(2), fix(npbn.BatchNorm1d(2), name))
    before = numbers(net)
    with pytest.raises(ValueError, match="read-only"):
        update_batch_norm(net, [np.eye(2, dtype="f4")], average_batches=average_batches)
    assert numbers(net) == before
