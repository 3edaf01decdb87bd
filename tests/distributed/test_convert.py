"""The conversion of a network's BatchNorm layers to SyncBatchNorm."""

import copy

import numpy as np
import pytest
from distributed.standin import alone, run
from helpers import assert_same_bits, rngs
from hypothesis import given

import npbn
from npbn.deploy.config import to_config
from npbn.distributed import SyncBatchNorm, convert_sync_batch_norm


def odd_network():
    """BatchNorm of all sorts, one layer twice, some frozen, some in eval mode."""
    rng = np.random.default_rng(0)
    shared = npbn.BatchNorm1d(3, eps=0.1)
    net = npbn.Sequential(
        fc=npbn.Linear(3, 3, rng=rng),
        shared=shared,
        inner=npbn.Sequential(npbn.ReLU(), shared, npbn.BatchNorm1d(3, momentum=None, bias=False)),
        ghost=npbn.GhostBatchNorm1d(3, 2),
        renorm=npbn.BatchRenorm1d(3, 3.0, 5.0),
        bare=npbn.BatchNorm1d(3, affine=False, track_running_stats=False),
        cold=npbn.BatchNorm1d(3).freeze(),
        in_eval=npbn.BatchNorm1d(3).eval(),
        images=npbn.BatchNorm2d(3, dtype="f8"),
    )
    for parameter in net.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    return net


def test_conversion_keeps_everything_but_the_kind():
    net, twin, comm = odd_network(), odd_network(), alone()
    parameters, buffers = list(net.parameters()), [b for _, b in net.named_buffers()]
    kept = net.ghost, net.renorm, net.fc
    assert convert_sync_batch_norm(net, comm) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a is b for (_, a), b in zip(net.named_buffers(), buffers, strict=True))
    assert (net.ghost, net.renorm, net.fc) == kept
    assert net.shared is net.inner[1]
    names = "shared", "bare", "cold", "in_eval", "images"
    for name in names:
        layer, its = getattr(net, name), getattr(twin, name)
        assert type(layer) is SyncBatchNorm
        assert layer.comm is comm
        assert repr(layer) == repr(its).replace(type(its).__name__, "SyncBatchNorm")
        assert (layer.training, layer.frozen) == (its.training, its.frozen)
    assert type(net.inner[2]) is SyncBatchNorm
    assert [n for n, _ in net.named_modules()] == [n for n, _ in twin.named_modules()]
    assert list(net.state_dict()) == list(twin.state_dict())
    net.freeze(False).train()
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_conversion_forgets_a_forward_pass_that_waits_and_a_second_one_changes_nothing():
    net = npbn.BatchNorm1d(3)
    net(np.random.default_rng(0).normal(size=(4, 3)).astype("f4"))
    layer = convert_sync_batch_norm(net, alone())
    with pytest.raises(npbn.errors.BackwardError):
        layer.backward(np.ones((4, 3), "f4"))
    assert convert_sync_batch_norm(layer, alone()) is layer


def test_a_batch_norm_by_itself_is_returned_as_a_new_layer():
    layer = npbn.BatchNorm2d(3)
    sync = convert_sync_batch_norm(layer, alone())
    assert (type(layer), type(sync)) == (npbn.BatchNorm2d, SyncBatchNorm)
    assert sync.weight is layer.weight
    assert sync.running_var is layer.running_var
    for other in (npbn.GhostBatchNorm1d(3, 2), npbn.BatchRenorm1d(3, 3.0, 5.0), npbn.Linear(2, 2)):
        assert convert_sync_batch_norm(other, alone()) is other


def test_a_converted_network_is_described_saved_and_loaded_as_what_it_was(tmp_path):
    def fresh():
        net = odd_network()
        net.inner = npbn.Identity()  # a description cannot say that a layer occurs twice
        return net.float()

    net, expected = fresh(), to_config(fresh())
    convert_sync_batch_norm(net, alone())
    assert to_config(net) == expected
    npbn.save(net, tmp_path / "net.npz")
    other = npbn.from_config(to_config(net))
    assert repr(other) == repr(fresh())
    other.load_state_dict(npbn.load(tmp_path / "net.npz"))
    for key, value in net.state_dict().items():
        assert_same_bits(other.state_dict()[key], value, key)


def test_a_layer_in_a_subclass_of_module_is_found():
    class Block(npbn.Module):
        def __init__(self):
            self.norm = npbn.BatchNorm1d(3)
            self.again = self.norm

    block = convert_sync_batch_norm(npbn.Sequential(Block()), alone())[0]
    assert type(block.norm) is SyncBatchNorm
    assert block.again is block.norm


@given(rng=rngs())
def test_a_copy_of_a_converted_network_computes_with_the_same_ranks(rng):
    x, grad = rng.normal(size=(2, 6, 3)).astype("f4")

    def program(comm):
        net = convert_sync_batch_norm(
            npbn.Sequential(npbn.Linear(3, 3, rng=np.random.default_rng(0)), npbn.BatchNorm1d(3)),
            comm,
        )
        twin = copy.deepcopy(net)
        assert twin[1].comm is comm
        shard = [slice(0, 1), slice(1, 6)][comm.rank]
        y, grad_input = net(x[shard]), net.backward(grad[shard])
        for key, value in twin.state_dict().items():
            assert "running" not in key or not np.array_equal(value, net.state_dict()[key])
        assert_same_bits(twin(x[shard]), y)
        assert_same_bits(twin.backward(grad[shard]), grad_input)

    run(2, program)
