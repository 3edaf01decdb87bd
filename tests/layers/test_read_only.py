"""What raises has changed nothing: arrays that are read-only, in every place that writes to some.

A read-only running_var was noticed when mean and counter had changed.
"""

import numpy as np
import pytest
from distributed.standin import run
from helpers import make_read_only, values_of

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


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("momentum", [0.5, None])
def test_training(layer, name, momentum):
    x = np.random.default_rng(0).normal(size=(6, 2)).astype("f4")

    def program(comm):
        bn = make_read_only(LAYERS[layer](comm, momentum=momentum), name)
        before = values_of(bn)
        with pytest.raises(ValueError, match=f"{layer}.2.: expected running_mean, running_var"):
            bn(x)
        assert values_of(bn) == before
        assert bn._pending is None
        bn.eval()(x)

    run(2 if layer == "SyncBatchNorm" else 1, program)


@pytest.mark.parametrize("name", STATISTICS)
def test_reset(name):
    bn = npbn.BatchNorm1d(2)
    bn(np.eye(2, dtype="f4"))
    make_read_only(bn, name)
    before = values_of(bn)
    for reset in (bn.reset_running_stats, bn.reset_parameters):
        with pytest.raises(ValueError, match="read-only"):
            reset()
        assert values_of(bn) == before


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: npbn.BatchNorm1d(2),
        lambda: npbn.BatchRenorm1d(2, 3.0, 5.0),
        lambda: npbn.Linear(2, 2),
        lambda: npbn.Conv2d(2, 2, 1),
    ],
)
def test_reset_of_parameters(make, name):
    layer = make()
    for array in (*layer.buffers(), *(parameter.data for parameter in layer.parameters())):
        array += 3
    before, changed = values_of(make_read_only(layer, name)), layer.bias.changed_at
    with pytest.raises(ValueError, match="expected parameters that can be written to"):
        layer.reset_parameters()
    assert values_of(layer) == before
    assert layer.bias.changed_at == changed


@pytest.mark.parametrize("epoch", [False, True])
@pytest.mark.parametrize("name", ["fc1.weight", "batch_norm1.bias", "fc3.bias"])
def test_a_step_of_training(name, epoch):
    net, criterion = npbn.MLP(3, 4, 2), npbn.CrossEntropyLoss()
    optimizer = npbn.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, target = np.eye(3, dtype="f4"), np.array([0, 1, 1])
    npbn.train_step(net, x, target, criterion, optimizer)
    before, grads = values_of(make_read_only(net, name)), [p.grad for p in net.parameters()]
    train = {
        False: lambda: npbn.train_step(net, x, target, criterion, optimizer),
        True: lambda: npbn.train_epoch(net, [(x, target)], criterion, optimizer),
    }
    with pytest.raises(ValueError, match="train_step: expected parameters that can be written to"):
        train[epoch]()
    assert values_of(net) == before
    assert all(p.grad is grad for p, grad in zip(net.parameters(), grads, strict=True))
    net.get_parameter(name).requires_grad_(False)
    npbn.train_step(net, x, target, criterion, optimizer)


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.num_batches_tracked"])
def test_load(name):
    net = npbn.Sequential(npbn.Linear(2, 2), npbn.BatchNorm1d(2))
    before = values_of(net)
    make_read_only(net, name)
    with pytest.raises(StateDictError, match=f"{name!r}: expected an array that can be written"):
        net.load_state_dict({key: array + 1 for key, array in net.state_dict().items()})
    assert values_of(net) == before
