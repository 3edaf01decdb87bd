"""Statistics that are read-only are refused before a pass is made."""

import numpy as np
import pytest
from helpers import make_read_only, values_of

import npbn
from npbn.population import update_batch_norm

STATISTICS = ["running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize("average_batches", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_population(name, average_batches):
    net = npbn.Sequential(npbn.BatchNorm1d(2), make_read_only(npbn.BatchNorm1d(2), name))
    before = values_of(net)
    with pytest.raises(ValueError, match="read-only"):
        update_batch_norm(net, [np.eye(2, dtype="f4")], average_batches=average_batches)
    assert values_of(net) == before
