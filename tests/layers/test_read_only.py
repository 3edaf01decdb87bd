"""What raises has changed nothing: arrays that are read-only, in every place that writes to some.

Issue 16, number 8: a read-only running_var was noticed when mean and counter had changed.
"""

import numpy as np
import pytest
from distributed.standin import run
from helpers import rngs
from hypothesis import given

import npbn
from npbn.distributed import SyncBatchNorm
from npbn.errors import StateDictError

pytestmark = pytest.mark.usefixtures("engine")
STATISTICS = ["running_mean", "running_var", "num_batches_tracked"]
LAYERS = {
    "BatchNorm1d": lambda comm, **options: npbn.BatchNorm1d(2, **options),
    "GhostBatchNorm1d": lambda comm, **options: npbn.GhostBatchNorm1d(2, 2, **options),
    "BatchRenorm1d": lambda comm, **options: npbn.BatchRenorm1d(2, 3.0, 5.0, **options),
    "SyncBatchNorm": lambda comm, **options: SyncBatchNorm(2, comm=comm, **options),
}


def fix(module, name):
    getattr(module, name).flags.writeable = False
    return module


def numbers(net):
    return {key: array.tolist() for key, array in net.state_dict().items()}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("momentum", [0.5, None])
@given(rng=rngs())
def test_training(layer, name, momentum, rng):
    x = rng.normal(size=(6, 2)).astype("f4")

    def program(comm):
        bn = fix(LAYERS[layer](comm, momentum=momentum), name)
        before = numbers(bn)
        with pytest.raises(ValueError, match=f"{layer}.2.: expected running_mean, running_var"):
            bn(x)
        assert numbers(bn) == before
        assert bn._pending is None
        bn.eval()(x)

    run(2 if layer == "SyncBatchNorm" else 1, program)


@pytest.mark.parametrize("name", STATISTICS)
def test_reset(name):
    bn = npbn.BatchNorm1d(2)
    bn(np.eye(2, dtype="f4"))
    fix(bn, name)
    before = numbers(bn)
    for reset in (bn.reset_running_stats, bn.reset_parameters):
        with pytest.raises(ValueError, match="read-only"):
            reset()
        assert numbers(bn) == before


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.num_batches_tracked"])
def test_load(name):
    net = npbn.Sequential(npbn.Linear(2, 2), npbn.BatchNorm1d(2))
    before = numbers(net)
    dict(net._state())[name].flags.writeable = False
    with pytest.raises(StateDictError, match=f"{name!r}: expected an array that can be written"):
        net.load_state_dict({key: array + 1 for key, array in net.state_dict().items()})
    assert numbers(net) == before
