"""A network or a step of training that refuses its input has changed nothing.

Sequential(BatchNorm1d(4), Linear(5, 2))(x) tracked the batch before the Linear raised,
and so did a step of training before the loss refused a target.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pytest
from distributed.standin import alone
from helpers import rngs
from hypothesis import given
from layer_contract import assert_unchanged, snapshot

import npbn
from npbn.errors import DataError, DtypeError, ShapeError
from npbn.layers import batch_norm_base
from npbn.layers.rollback import recording, restoring

NORMS = {
    "BatchNorm1d": lambda **options: npbn.BatchNorm1d(4, **options),
    "GhostBatchNorm1d": lambda **options: npbn.GhostBatchNorm1d(4, 2, **options),
    "BatchRenorm1d": lambda **options: npbn.BatchRenorm1d(4, 3.0, 5.0, **options),
    "SyncBatchNorm": lambda **options: npbn.distributed.SyncBatchNorm(4, comm=alone(), **options),
}


class Residual(npbn.Module):
    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        y, cache = self.inner._apply(x, predict)
        return x + y, cache


def trained(net, rng, optimizer=None):
    """Return a network with gradients and statistics that are not those of the start."""
    for parameter in net.parameters():
        parameter.grad = rng.normal(size=parameter.shape).astype(parameter.dtype)
    for name, buffer in net.named_buffers():
        buffer[...] = 7 if "num" in name else rng.uniform(1, 2, buffer.shape)
    return net


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("nesting", ["plain", "nested", "residual", "twice"])
def test_statistics_are_put_back_when_a_later_layer_refuses(kind, momentum, nesting):
    rng = np.random.default_rng(0)
    norm, last = NORMS[kind](momentum=momentum), npbn.Linear(5, 2)
    net = {
        "plain": lambda: npbn.Sequential(norm, last),
        "nested": lambda: npbn.Sequential(npbn.Sequential(npbn.Identity(), norm), last),
        "residual": lambda: Residual(npbn.Sequential(norm, Residual(last))),
        "twice": lambda: npbn.Sequential(norm, norm, npbn.BatchNorm1d(4), last),
    }[nesting]()
    trained(net, rng)
    before = snapshot(net)
    with pytest.raises(ShapeError, match=r"Linear\(5, 2\)"):
        net(rng.normal(size=(6, 4)).astype("f4"))
    assert_unchanged(net, before)
    assert recording.changes is None


@given(rng=rngs())
def test_what_a_composite_catches_stays_as_its_parts_left_it(rng):
    """Only the part that raised is undone: the layer before it has tracked its batch."""

    class Tolerant(npbn.Module):
        def __init__(self):
            self.first, self.second = (
                npbn.BatchNorm1d(4),
                npbn.Sequential(npbn.BatchNorm1d(4), npbn.Linear(5, 2)),
            )

        def _apply(self, x, predict):
            y, cache = self.first._apply(x, predict)
            with pytest.raises(ShapeError):
                self.second(y)
            return y, cache

    net = Tolerant()
    net(rng.normal(size=(6, 4)).astype("f4"))
    assert net.first.num_batches_tracked == 1
    assert net.second[0].num_batches_tracked == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_forward_pass_is_undone_too(error):
    class Interrupted(npbn.Module):
        def _apply(self, x, predict):
            raise error

    net = npbn.Sequential(npbn.BatchNorm1d(2), Interrupted())
    before = snapshot(net)
    with pytest.raises(error):
        net(np.eye(2, dtype="f4"))
    assert_unchanged(net, before)


@pytest.mark.parametrize("kind", NORMS)
def test_a_layer_alone_that_is_interrupted_is_as_it_was(monkeypatch, kind):
    """Ctrl-C is raised when compiled code returns: the averages are written after that."""
    rng = np.random.default_rng(0)
    norm = trained(NORMS[kind](), rng)
    before = snapshot(norm)
    with monkeypatch.context() as patch:
        for name in ("normalise_and_average", "updated_running_statistics"):
            patch.setattr(batch_norm_base, name, interrupted_after(getattr(batch_norm_base, name)))
        with pytest.raises(KeyboardInterrupt):
            norm(rng.normal(size=(6, 4)).astype("f4"))
    assert_unchanged(norm, before)
    norm(rng.normal(size=(2, 4)).astype("f4"))
    assert norm.num_batches_tracked == 8


def interrupted_after(function):
    def call(*arguments):
        function(*arguments)
        raise KeyboardInterrupt

    return call


def test_threads_record_for_themselves():
    """A forward pass that fails in one thread undoes nothing of another's."""
    good, bad = (
        [npbn.Sequential(npbn.BatchNorm1d(2), npbn.Linear(features, 2)) for _ in range(50)]
        for features in (2, 3)
    )
    x = np.eye(2, dtype="f4")

    def fails(net):
        with pytest.raises(ShapeError):
            net(x)

    with ThreadPoolExecutor(2) as pool:  # each network in one thread: training is not for several
        pairs = zip(good, bad, strict=True)
        jobs = [pool.submit(*job) for net, other in pairs for job in ((net, x), (fails, other))]
        for job in jobs:
            job.result()
    assert [net[0].num_batches_tracked for net in good] == [1] * 50
    assert [net[0].num_batches_tracked for net in bad] == [0] * 50


BAD_TARGETS = {
    "no class": (np.array([0, 1, 9]), DataError),
    "another length": (np.array([0, 1]), ShapeError),
    "floats": (np.array([0.0, 1.0, 1.0]), DtypeError),
}


@pytest.mark.parametrize("bad", BAD_TARGETS)
@pytest.mark.parametrize("epoch", [False, True])
@given(rng=rngs())
def test_a_step_that_refuses_its_target_changes_nothing(bad, epoch, rng):
    target, error = BAD_TARGETS[bad]
    net = trained(npbn.MLP(4, 3, 2), rng)
    optimizer = npbn.SGD(net.parameters(), lr=0.1, momentum=0.9)
    before = snapshot(net)
    x = rng.normal(size=(3, 4)).astype("f4")
    criterion = npbn.CrossEntropyLoss()
    train = {
        False: lambda: npbn.train_step(net, x, target, criterion, optimizer),
        True: lambda: npbn.train_epoch(net, [(x, target)], criterion, optimizer),
    }
    with pytest.raises(error):
        train[epoch]()
    assert_unchanged(net, before)
    assert optimizer.state == {}


@given(rng=rngs())
def test_a_step_that_refuses_its_input_or_its_criterion_changes_nothing(rng):
    net = trained(npbn.MLP(4, 3, 2), rng)
    optimizer = npbn.SGD(net.parameters(), lr=0.1)
    before, target = snapshot(net), np.array([0, 1, 1])
    for x, criterion, error in [
        (np.zeros((3, 5), "f4"), npbn.CrossEntropyLoss(), ShapeError),
        (np.zeros((3, 4), "f4"), npbn.CrossEntropyLoss(reduction="none"), RuntimeError),
        (np.zeros((3, 4), "f4"), npbn.MSELoss(), DtypeError),
    ]:
        with pytest.raises(error):
            npbn.train_step(net, x, target, criterion, optimizer)
        assert_unchanged(net, before)


@given(rng=rngs())
def test_a_step_replaces_the_gradients_of_the_step_before(rng):
    net, criterion = npbn.MLP(4, 3, 2), npbn.CrossEntropyLoss()
    twin = copy.deepcopy(net)
    x, target = rng.normal(size=(3, 4)).astype("f4"), np.array([0, 1, 1])
    trained(net, rng).load_state_dict(twin.state_dict())
    for each in (net, twin):
        npbn.train_step(each, x, target, criterion, npbn.SGD(each.parameters(), lr=0.1))
    assert_unchanged(net, snapshot(twin))


@given(values=st.lists(st.integers(-9, 9), min_size=1, max_size=5), depth=st.integers(1, 3))
def test_changes_are_undone_in_reverse_order(values, depth):
    array = np.zeros(2)

    def change(level):
        for value in values:
            recording.changes.append((array, array.copy()))
            array[:] = value
        if level:
            restoring(change, level - 1)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        restoring(change, depth)
    assert not array.any()
    assert recording.changes is None
