"""Conversion of subclasses, and the way back.

A BatchNorm1d that clips at 0 was converted to one that does not, with one rank too.
"""

import numpy as np
import pytest
from distributed.standin import alone, run
from distributed.test_convert import odd_network
from helpers import assert_same_bits, rngs
from hypothesis import given

import npbn
from npbn.deploy.config import to_config
from npbn.distributed import (
    DataParallel,
    SyncBatchNorm,
    convert_sync_batch_norm,
    revert_sync_batch_norm,
)
from npbn.errors import ConfigError

CONV = npbn.Conv2d(3, 2, 3)


class Clipping(npbn.BatchNorm1d):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return y.clip(0), cache


class CallsOnly(npbn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class Slow(npbn.BatchNorm1d):
    def _track(self, statistics):
        pass


class Scaling(npbn.BatchNorm1d):
    def _gradients(self, grad_output, cache, input_grad):
        return super()._gradients(2 * grad_output, cache, input_grad)


class Holder(npbn.Module):
    """Has a layer, which Sequential would refuse if it has a forward of its own."""

    def __init__(self, layer):
        self.c = layer


class Named(npbn.BatchNorm1d):
    """One that computes what its class does."""

    def __init__(self, title, *args):
        super().__init__(*args)
        self.title = title

    def extra_repr(self):
        return self.title


@pytest.mark.parametrize("kind", [Clipping, CallsOnly, Slow, Scaling])
@pytest.mark.parametrize("size", [1, 2])
def test_a_subclass_that_computes_something_else_is_refused(kind, size):
    def program(comm):
        first = npbn.BatchNorm1d(1)
        net = npbn.Sequential(a=first, b=Holder(kind(1)))
        with pytest.raises(
            ConfigError, match=rf"b\.c: expected .* BatchNorm\dd does.*{kind.__name__}"
        ):
            convert_sync_batch_norm(net, comm)
        assert net[0] is first
        assert type(net.b.c) is kind
        with pytest.raises(ConfigError, match="the layer: expected"):
            convert_sync_batch_norm(kind(1), comm)

    run(size, program)


def test_the_issues_values():
    net = npbn.Sequential(Clipping(1, eps=1e-12, dtype="f8"))
    x = np.array([[-3.0], [5.0]])
    net[0].running_mean[...], net[0].running_var[...] = 0.0, 1.0
    with pytest.raises(ConfigError):
        convert_sync_batch_norm(net, alone())
    np.testing.assert_allclose(net.predict(x), [[0.0], [5.0]], rtol=1e-11)


@pytest.mark.parametrize("name", ["_apply", "forward", "predict", "_gradients"])
def test_a_method_of_the_layer_itself_is_refused_too(name):
    net = npbn.Sequential(npbn.BatchNorm1d(1))
    setattr(net[0], name, lambda *_: None)
    with pytest.raises(ConfigError, match=f"with a {name} of its own"):
        convert_sync_batch_norm(net, alone())


def test_a_subclass_that_only_has_a_name_is_converted_and_comes_back():
    net = npbn.Sequential(Named("mine", 3))
    parameters = list(net.parameters())
    convert_sync_batch_norm(net, alone())
    assert type(net[0]) is SyncBatchNorm
    revert_sync_batch_norm(net)
    assert type(net[0]) is Named
    assert net[0].title == "mine"
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


# -- the way back ---------------------------------------------------------------------------------


def test_a_network_comes_back_as_it_was():
    net, twin = odd_network(), odd_network()
    parameters, buffers = list(net.parameters()), [b for _, b in net.named_buffers()]
    assert revert_sync_batch_norm(convert_sync_batch_norm(net, alone())) is net
    assert repr(net) == repr(twin)
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(a is b for (_, a), b in zip(net.named_buffers(), buffers, strict=True))
    assert net.shared is net.inner[1]
    for mine, its in zip(net.modules(), twin.modules(), strict=True):
        assert type(mine) is type(its)
        assert vars(mine).keys() == vars(its).keys()
        assert (mine.training, mine.frozen) == (its.training, its.frozen)
    assert revert_sync_batch_norm(net) is net
    convert_sync_batch_norm(net, alone())
    assert type(net.images) is SyncBatchNorm


@given(rng=rngs())
def test_what_ranks_trained_goes_on_in_one_process_folded_and_described(rng):
    x = rng.normal(size=(8, 3)).astype("f4")

    def program(comm):
        net = npbn.Sequential(npbn.Linear(3, 2, rng=np.random.default_rng(0)), npbn.BatchNorm1d(2))
        wrapped = DataParallel(convert_sync_batch_norm(net, comm), comm)
        wrapped(np.array_split(x, comm.size)[comm.rank])
        expected = net.predict(x)
        plain = revert_sync_batch_norm(wrapped.module)
        assert_same_bits(plain.predict(x), expected)
        npbn.fold_batch_norm(plain)
        assert to_config(plain) == to_config(
            npbn.Sequential(npbn.Linear(3, 2), npbn.BatchNorm1d(2))
        )
        npbn.update_batch_norm(plain, [x])
        return comm.messages[-1].what

    assert run(2, program) == ["SyncBatchNorm(2) forward"] * 2


def test_folding_names_the_way_back():
    for kind, before in ((npbn.BatchNorm1d, npbn.Linear(3, 2)), (npbn.BatchNorm2d, CONV)):
        net = npbn.Sequential(before, kind(2))
        convert_sync_batch_norm(net, alone())
        with pytest.raises(ConfigError, match=r"npbn\.distributed\.revert_sync_batch_norm\(net\)"):
            npbn.fold_batch_norm(net)
        assert len(npbn.fold_batch_norm(revert_sync_batch_norm(net))) == 1


def test_a_layer_made_as_synchronised_has_to_say_what_it_is():
    layer = SyncBatchNorm(3, comm=alone())
    net = npbn.Sequential(convert_sync_batch_norm(npbn.BatchNorm1d(3), alone()), layer)
    with pytest.raises(ConfigError, match=r"revert_sync_batch_norm: 1: .* described_as"):
        revert_sync_batch_norm(net)
    assert [type(module) for module in net] == [SyncBatchNorm] * 2
    layer.described_as = npbn.BatchNorm2d
    revert_sync_batch_norm(net)
    assert [type(module) for module in net] == [npbn.BatchNorm1d, npbn.BatchNorm2d]


@pytest.mark.parametrize(
    "kind",
    ["BatchNorm2d", 5, npbn.Linear, SyncBatchNorm, npbn.GhostBatchNorm1d, npbn.BatchNorm1d(2)],
)
def test_what_is_no_class_of_batch_norm_is_refused(kind):
    layer = SyncBatchNorm(3, comm=alone())
    layer.described_as = kind
    net = npbn.Sequential(layer)
    with pytest.raises(ConfigError, match=r"0: expected described_as to be a class .* got "):
        revert_sync_batch_norm(net)
    assert net[0] is layer


def test_a_subclass_may_say_what_it_is():
    class Images(SyncBatchNorm):
        described_as = npbn.BatchNorm2d

    reverted = revert_sync_batch_norm(Images(3, comm=alone()))
    assert type(reverted) is npbn.BatchNorm2d
    assert not hasattr(reverted, "comm")


def test_a_single_layer_is_returned_anew_and_others_as_they_are():
    sync = convert_sync_batch_norm(npbn.BatchNorm1d(3), alone())
    assert type(revert_sync_batch_norm(sync)) is npbn.BatchNorm1d
    assert type(sync) is SyncBatchNorm
    linear = npbn.Linear(2, 2)
    assert revert_sync_batch_norm(linear) is linear
