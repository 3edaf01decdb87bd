"""What raises has changed nothing: arrays that are read-only, in every place that writes to some.

Issue 16, number 8: a read-only running_var was noticed when mean and counter had changed.
"""

import numpy as np
import pytest
from distributed.standin import fails, run
from helpers import rngs
from hypothesis import given

import npbn
from npbn import functional
from npbn.distributed import DataParallel, SyncBatchNorm
from npbn.errors import StateDictError
from npbn.population import update_batch_norm

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


@pytest.mark.parametrize("average_batches", [False, True])
@pytest.mark.parametrize("name", STATISTICS)
def test_population(name, average_batches):
    net = npbn.Sequential(npbn.BatchNorm1d(2), fix(npbn.BatchNorm1d(2), name))
    before = numbers(net)
    with pytest.raises(ValueError, match="read-only"):
        update_batch_norm(net, [np.eye(2, dtype="f4")], average_batches=average_batches)
    assert numbers(net) == before


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.num_batches_tracked"])
def test_load(name):
    net = npbn.Sequential(npbn.Linear(2, 2), npbn.BatchNorm1d(2))
    before = numbers(net)
    dict(net._state())[name].flags.writeable = False
    with pytest.raises(StateDictError, match=f"{name!r}: expected an array that can be written"):
        net.load_state_dict({key: array + 1 for key, array in net.state_dict().items()})
    assert numbers(net) == before


@pytest.mark.parametrize("fixed", [0, 1])
def test_the_functions_running_statistics(fixed):
    arrays = [np.zeros(2), np.ones(2)]
    arrays[fixed].flags.writeable = False
    with pytest.raises(ValueError, match="that can be written to"):
        functional.batch_norm(np.eye(2), *arrays, training=True)
    assert [array.tolist() for array in arrays] == [[0, 0], [1, 1]]
    functional.batch_norm(np.eye(2), *arrays)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_step(momentum):
    first, second = npbn.Parameter(np.ones(2)), npbn.Parameter(np.broadcast_to(1.0, (2,)))
    optimizer = npbn.SGD([first, second], lr=1.0, momentum=momentum)
    first.grad = second.grad = np.ones(2)
    with pytest.raises(ValueError, match=r"SGD\.step: expected parameters that can be written to"):
        optimizer.step()
    assert first.data.tolist() == [1, 1]
    assert optimizer.state == {}
    second.grad = None
    optimizer.step()
    assert first.data.tolist() == [0, 0]


def test_step_with_an_option_of_a_later_group_that_is_no_number():
    first, second = npbn.Parameter(np.ones(2)), npbn.Parameter(np.ones(2))
    optimizer = npbn.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    first.grad = second.grad = np.ones(2)
    optimizer.param_groups[1]["lr"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    assert first.data.tolist() == [1, 1]


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
