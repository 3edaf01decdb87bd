"""Networks trained on shards against the same networks trained on whole batches."""

import copy
import itertools
from unittest import mock

import numpy as np
import pytest
from distributed.standin import cuts, fails, outcomes, run
from helpers import assert_same_bits, assert_within, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.distributed import DataParallel, buckets, convert_sync_batch_norm, train_step
from npbn.errors import BackwardError, DistributedError, ShapeError

sizes = st.integers(1, 4)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def parallel(net, comm):
    return DataParallel(convert_sync_batch_norm(net, comm), comm)


def mlp(seed=0, dtype="float64"):
    return npbn.MLP(4, 5, 3, dtype=dtype, rng=np.random.default_rng(seed))


def cnn(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return npbn.Sequential(
        npbn.Conv2d(1, 2, 2, bias=False, dtype=dtype, rng=rng),
        npbn.BatchNorm2d(2, dtype=dtype),
        npbn.ReLU(),
        npbn.MaxPool2d(2),
        npbn.Flatten(),
        npbn.Linear(8, 3, dtype=dtype, rng=rng),
    )


NETWORKS = {"MLP": (mlp, (4,)), "CNN": (cnn, (1, 5, 5))}


def state_bytes(net):
    return b"".join(array.tobytes() for array in net.state_dict().values())


def grads(net):
    return [parameter.grad for parameter in net.parameters()]


def close(actual, expected, what="result", dtype="float64"):
    """To 1e-12, in float32 as many eps of it: about 4,500 roundings of the largest number."""
    expected = np.asarray(expected)
    scale = max(1, np.abs(expected).max(initial=0))
    bound = 1e-12 * float(np.finfo(dtype).eps) / np.finfo("float64").eps * scale
    assert_within(actual, expected, bound, what)


def assert_same_training(
    make, batches, shards, criterion, targets, dtype="float64", before=lambda net: None, **options
):
    """Train on shards and on the whole: losses, parameters, statistics; the same on all ranks."""
    options = {"lr": 0.02, "momentum": 0.9, **options}
    alone = make(0, dtype)
    before(alone)
    optimizer = npbn.SGD(alone.parameters(), **options)
    its_losses = [
        npbn.train_step(alone, x, target, criterion(), optimizer)[0]
        for x, target in zip(batches, targets, strict=True)
    ]

    def program(comm):
        net = make(comm.rank, dtype)  # rank 0's values count
        before(net)
        net = parallel(net, comm)
        optimizer, loss = npbn.SGD(net.parameters(), **options), criterion()
        part, losses = shards[comm.rank], []
        for x, target in zip(batches, targets, strict=True):
            value, logits = train_step(net, x[part], target[part], loss, optimizer)
            assert len(logits) == len(x[part])
            losses.append(value)
        return net, losses

    results = run(len(shards), program)
    for net, losses in results:
        assert state_bytes(net) == state_bytes(results[0][0])
        assert losses == results[0][1]
    close(results[0][1], its_losses, "losses", dtype)
    net = results[0][0].module
    for (key, actual), value in zip(
        net.state_dict().items(), alone.state_dict().values(), strict=True
    ):
        assert actual.dtype == value.dtype
        close(actual, value, key, dtype)


# -- equal to one process -------------------------------------------------------------------------


def fifty_steps(kind, shards, rng):
    make, shape = NETWORKS[kind]
    batches = rng.normal(size=(50, shards[-1].stop, *shape))
    targets = rng.integers(3, size=batches.shape[:2])
    assert_same_training(make, batches, shards, npbn.CrossEntropyLoss, targets)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("MLP", [0, 9]),
        ("MLP", [0, 3, 9]),
        ("MLP", [0, 1, 1, 9]),
        ("MLP", [0, 0, 5, 6, 9]),
        ("CNN", [0, 6, 7, 9]),
    ],
)
def test_fifty_steps_on_uneven_shards_are_those_of_one_process(kind, ends):
    """One of them empty, where there are more than two."""
    shards = [slice(*pair) for pair in itertools.pairwise(ends)]
    fifty_steps(kind, shards, np.random.default_rng(len(ends)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@given(data=st.data(), rng=rngs())
def test_fifty_steps_on_drawn_shards_are_those_of_one_process(kind, size, data, rng):
    """Of fewer than eight samples BatchNorm is ill-conditioned, and 1e-12 too much to ask."""
    fifty_steps(kind, cuts(data.draw, data.draw(st.integers(8, 12)), size), rng)


@pytest.mark.slow
@given(data=st.data(), rng=rngs(), size=sizes)
def test_fifty_steps_in_float32(data, rng, size):
    shards = cuts(data.draw, 8, size)
    batches = rng.normal(size=(50, 8, 4)).astype("float32")
    targets = rng.integers(3, size=(50, 8))
    assert_same_training(mlp, batches, shards, npbn.CrossEntropyLoss, targets, "float32")


@given(data=st.data(), rng=rngs(), size=sizes, reduction=st.sampled_from(["mean", "sum"]))
def test_class_weights_ignored_targets_and_smoothing_count_as_on_the_whole(
    data, rng, size, reduction
):
    """Also where a shard's targets are all ignored."""
    samples = data.draw(st.integers(2, 10))
    shards = cuts(data.draw, samples, size)
    weight = rng.uniform(0.1, 5, 3) if data.draw(st.booleans()) else None
    smoothing = data.draw(st.sampled_from([0.0, 0.3]))
    targets = rng.choice([0, 1, 2, -1], size=(3, samples))
    nothing = data.draw(st.integers(0, size - 1))
    if shards[nothing].start > 0:  # the first sample counts: of none the loss is NaN
        targets[:, shards[nothing]] = -1
    targets[:, 0] = 1

    def criterion():
        return npbn.CrossEntropyLoss(weight, -1, reduction, smoothing)

    batches = rng.normal(size=(3, samples, 4))
    assert_same_training(mlp, batches, shards, criterion, targets)


@given(data=st.data(), rng=rngs(), size=sizes, reduction=st.sampled_from(["mean", "sum"]))
def test_squared_error(data, rng, size, reduction):
    samples = data.draw(st.integers(2, 10))
    shards = cuts(data.draw, samples, size)
    batches, targets = rng.normal(size=(3, samples, 4)), rng.normal(size=(3, samples, 3))
    assert_same_training(mlp, batches, shards, lambda: npbn.MSELoss(reduction), targets)


@given(data=st.data(), rng=rngs(), size=sizes)
def test_a_network_without_batch_norm_and_weight_decay(data, rng, size):
    samples = data.draw(st.integers(1, 6))
    shards = cuts(data.draw, samples, size)

    def make(seed, dtype):
        return npbn.MLP(4, 5, 3, False, dtype=dtype, rng=np.random.default_rng(seed))

    batches, targets = rng.normal(size=(3, samples, 4)), rng.integers(3, size=(3, samples))
    decay = {"weight_decay": 0.1}
    assert_same_training(make, batches, shards, npbn.CrossEntropyLoss, targets, **decay)


@pytest.mark.parametrize("size", [1, 3])
def test_all_targets_ignored_is_a_loss_of_nan_and_no_step(size):
    def program(comm):
        net = parallel(mlp(), comm)
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        before = [parameter.data.copy() for parameter in net.parameters()]
        x = np.random.default_rng(comm.rank).normal(size=(3, 4))
        loss, _ = train_step(net, x, np.full(3, -100), npbn.CrossEntropyLoss(), optimizer)
        assert np.isnan(loss)
        for parameter, value in zip(net.parameters(), before, strict=True):
            assert_same_bits(parameter.data, value)

    run(size, program)


def whole_gradients(net, x, upstream):
    y = net(x)
    grad_input = net.backward(upstream(y))
    return grad_input, grads(net)


@given(data=st.data(), rng=rngs(), size=sizes)
def test_without_a_criterion_the_gradient_is_that_of_a_mean_over_samples(data, rng, size):
    """An upstream gradient of any kind, each rank's divided by its own number of samples."""
    samples = data.draw(st.integers(2, 9))
    shards = cuts(data.draw, samples, size)
    x, upstream = rng.normal(size=(samples, 4)), rng.normal(size=(samples, 3))
    its_input, expected = whole_gradients(mlp(), x, lambda y: upstream / samples)

    def program(comm):
        net, part = parallel(mlp(), comm), shards[comm.rank]
        net(x[part])
        grad_input = net.backward(upstream[part] / max(len(x[part]), 1))
        assert net.loss is None
        return grad_input, grads(net)

    inputs, found = zip(*run(size, program), strict=True)
    close(np.concatenate(inputs), its_input, "grad_input")
    for mine in found:
        for actual, grad, first in zip(mine, expected, found[0], strict=True):
            close(actual, grad)
            assert_same_bits(actual, first)


def test_averaging_the_ranks_gradients_afterwards_would_be_wrong_for_uneven_shards():
    """So that the tests above can fail: it is off by far more than they allow."""
    rng = np.random.default_rng(0)
    x, targets, shards = rng.normal(size=(6, 4)), rng.integers(3, size=6), [slice(1), slice(1, 6)]

    def make():
        return npbn.MLP(4, 5, 3, False, dtype="float64", rng=np.random.default_rng(0))

    def gradients(net, x, target):
        criterion = npbn.CrossEntropyLoss()
        criterion(net(x), target)
        net.backward(criterion.backward())
        return np.concatenate([np.ravel(grad) for grad in grads(net)])

    def program(comm):
        net, criterion = DataParallel(make(), comm), npbn.CrossEntropyLoss()
        criterion(net(x[shards[comm.rank]]), targets[shards[comm.rank]])
        net.backward(criterion.backward(), criterion=criterion)
        return np.concatenate([np.ravel(grad) for grad in grads(net)])

    whole = gradients(make(), x, targets)
    averaged = sum(gradients(make(), x[part], targets[part]) for part in shards) / 2
    for found in run(2, program):
        close(found, whole)
    assert np.abs(averaged - whole).max() > 0.01


def test_batch_norm_that_is_not_synchronised_takes_over_the_statistics_of_rank_0():
    def program(comm):
        net = DataParallel(npbn.Sequential(mlp(comm.rank), npbn.BatchNorm1d(3, dtype="f8")), comm)
        x = np.random.default_rng(comm.rank).normal(size=(4, 4))
        net.predict(x)
        net.eval()(x)
        assert [m.what for m in comm.messages if "statistics" in m.what] == []
        net.train()(x)
        assert [m.what for m in comm.messages if "statistics" in m.what] == ["running statistics"]
        return {key: value for key, value in net.state_dict().items() if "fc" not in key}

    found = run(3, program)
    twin = npbn.Sequential(mlp(0), npbn.BatchNorm1d(3, dtype="f8"))
    twin(np.random.default_rng(0).normal(size=(4, 4)))
    for state in found:
        for key, value in state.items():
            assert_same_bits(value, twin.state_dict()[key.removeprefix("module.")], key)


# -- messages -------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("bucket", [1, 100, 256 * 1024])
def test_a_step_sends_what_the_docstrings_say_and_no_more(dtype, bucket):
    """For the losses 8 · 4 bytes, for each bucket its parameters and one number, and those of
    SyncBatchNorm: 8 · (2 + 2 C) forward and 8 · 2 C back."""
    itemsize = np.dtype(dtype).itemsize

    def program(comm):
        net, criterion = parallel(mlp(0, dtype), comm), npbn.CrossEntropyLoss()
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        x = np.random.default_rng(0).normal(size=(4, 4)).astype(dtype)
        comm.messages.clear()
        train_step(net, x, np.arange(4) % 3, criterion, optimizer)
        kinds = {}
        for message in comm.messages:
            name = "gradients" if message.what.startswith("gradients") else message.what
            kinds.setdefault(name, []).append((message.kind, message.bytes))
        sent = kinds.pop("gradients")
        assert kinds == {
            "SyncBatchNorm(5) forward": [("gather", 8 * (2 + 2 * 5))] * 2,
            "loss": [("gather", 8 * 4)],
            "SyncBatchNorm(5) backward": [("sum", 8 * 2 * 5)] * 2,
        }
        numbers = sum(parameter.data.size for parameter in net.parameters())
        assert {kind for kind, _ in sent} == {"sum"}
        assert sum(size for _, size in sent) == itemsize * numbers
        return len(sent)

    with mock.patch.object(buckets, "BUCKET_BYTES", bucket):
        counts = run(2, program)
    parameters = len(list(mlp().parameters()))
    assert len(set(counts)) == 1
    if bucket == 1:
        assert counts[0] == parameters
    elif bucket == 100:
        assert 1 < counts[0] < parameters
    else:
        assert counts[0] == 1


def test_large_gradients_are_sent_alone_and_small_ones_together():
    def program(comm):
        net = DataParallel(npbn.MLP(300, 300, 10, use_batch_norm=False), comm)
        net(np.ones((2, 300), "f4"))
        comm.messages.clear()
        net.backward(np.ones((2, 10), "f4"))
        return [message.bytes for message in comm.messages if message.kind == "sum"]

    large, small = 300 * 300, 300 * 10 + 10 + 300 + 300  # fc1.weight, fc2.weight; all others
    for found in run(2, program):
        assert found == [4 * large, 4 * small, 4 * large]  # fc2.weight is there first


def test_a_gradient_that_is_kept_does_not_change_at_the_next_step():
    def program(comm):
        net = DataParallel(npbn.MLP(300, 300, 10, use_batch_norm=False), comm)
        kept = []
        for scale in (1, 2):
            net.zero_grad()
            net(np.full((2, 300), scale, "f4"))
            net.backward(np.full((2, 10), scale, "f4"))
            kept.append({n: (p.grad, p.grad.copy()) for n, p in net.named_parameters()})
        assert any((kept[0][n][1] != kept[1][n][1]).any() for n in kept[0])
        return all((now == then).all() for now, then in kept[0].values())

    assert run(2, program) == [True, True]


def test_buckets_leave_before_the_first_layer_is_reached_and_nobody_waits_for_them():
    def program(comm):
        net, criterion = parallel(mlp(), comm), npbn.CrossEntropyLoss()
        for name, layer in net.module.named_children():
            inner = layer._backward

            def spied(*arguments, name=name, inner=inner):
                comm.events.append(f"backward of {name}")
                return inner(*arguments)

            layer._backward = spied
        criterion(net(np.random.default_rng(0).normal(size=(4, 4))), np.arange(4) % 3)
        comm.events.clear()
        net.backward(criterion.backward(), criterion=criterion)
        return comm.events

    with mock.patch.object(buckets, "BUCKET_BYTES", 1):
        for events in run(2, program):
            at = {event: number for number, event in enumerate(events)}
            first = at["backward of fc1"]
            assert at["send gradients 0"] < at["backward of batch_norm2"]
            assert sum(event.startswith("send gradients") for event in events[:first]) == 7
            assert not any(event.startswith("receive gradients") for event in events[:first])
            assert sum(event.startswith("receive gradients") for event in events) == 8


def test_one_rank_sends_nothing_and_computes_what_the_network_alone_does():
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))

    def program(comm):
        net, twin = parallel(mlp(), comm), mlp()
        close(net(x), twin(x))
        close(net.backward(upstream), twin.backward(upstream))
        for mine, its in zip(grads(net), grads(twin), strict=True):
            close(mine, its)
        assert comm.messages == []

    run(1, program)


# -- accumulation, frozen and shared parameters ---------------------------------------------------


def compare_passes(make, prepare=lambda net: None, passes=1, seed=0, size=3, width=4, bucket=1):
    """Gradients of `passes` backward passes on shards are those on whole batches."""
    rng = np.random.default_rng(seed)
    shards = [slice(0, 1), slice(1, 1), slice(1, 6), slice(6, 6)][:size]
    xs, upstreams = rng.normal(size=(passes, 6, width)), rng.normal(size=(passes, 6, 3))
    alone = make()
    prepare(alone)
    for x, upstream in zip(xs, upstreams, strict=True):
        alone(x)
        alone.backward(upstream / 6)

    def program(comm):
        net = make()
        prepare(net)
        net, part = parallel(net, comm), shards[comm.rank]
        for x, upstream in zip(xs, upstreams, strict=True):
            net(x[part])
            net.backward(upstream[part] / max(len(x[part]), 1), input_grad=False)
        assert not any(parameter._hooks for parameter in net.parameters())
        return grads(net)

    with mock.patch.object(buckets, "BUCKET_BYTES", bucket):
        found = run(size, program)
    expected = grads(alone)
    for mine in found:
        for actual, grad, first in zip(mine, expected, found[0], strict=True):
            assert (actual is None) == (grad is None)
            assert_same_bits(actual, first)
            if grad is not None:
                close(actual, grad)
    return expected


@pytest.mark.parametrize("bucket", [1, 256 * 1024])
def test_gradients_of_several_passes_accumulate(bucket):
    compare_passes(mlp, passes=3, bucket=bucket)


@pytest.mark.parametrize("bucket", [1, 256 * 1024])
def test_frozen_parameters_get_no_gradient_and_are_not_sent(bucket):
    def prepare(net):
        net.fc2.freeze()
        net.batch_norm1.freeze()
        net.fc3.bias.requires_grad = False

    expected = compare_passes(mlp, prepare, bucket=bucket)
    assert sum(grad is None for grad in expected) == 4


def test_a_network_of_frozen_parameters_alone():
    assert compare_passes(mlp, lambda net: net.freeze()) == [None] * 8


def shared_network():
    rng = np.random.default_rng(0)
    shared = npbn.Linear(3, 3, dtype="f8", rng=rng)
    norm = npbn.BatchNorm1d(3, dtype="f8")
    first = npbn.Linear(4, 3, dtype="f8", rng=rng)
    return npbn.Sequential(first, shared, norm, npbn.Sigmoid(), shared, norm)


class Twice(npbn.Module):
    """Runs its one child twice, which nobody can tell from outside."""

    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        y, first = self.inner._apply(x, predict)
        y, second = self.inner._apply(y, predict)
        return y, (first, second)

    def _backward(self, grad_output, cache, input_grad):
        grad = self.inner._backward(grad_output, cache[1], True)
        return self.inner._backward(grad, cache[0], input_grad)


def twice_network():
    rng = np.random.default_rng(0)
    return npbn.Sequential(
        npbn.Linear(4, 3, dtype="f8", rng=rng),
        Twice(
            npbn.Sequential(
                npbn.Linear(3, 3, dtype="f8", rng=rng),
                npbn.BatchNorm1d(3, dtype="f8"),
                npbn.Sigmoid(),
            )
        ),
        npbn.Linear(3, 3, dtype="f8", rng=rng),
    )


def tied_network():
    """Two layers with one weight."""
    net = npbn.Sequential(
        npbn.Linear(4, 4, dtype="f8", rng=np.random.default_rng(0)),
        npbn.Sigmoid(),
        npbn.Linear(4, 4, bias=False, dtype="f8"),
        npbn.Linear(4, 3, dtype="f8", rng=np.random.default_rng(1)),
    )
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize("make", [shared_network, twice_network, tied_network])
@pytest.mark.parametrize("bucket", [1, 256 * 1024])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_parameter_with_several_gradients_gets_their_sum(make, bucket, passes):
    compare_passes(make, bucket=bucket, passes=passes)


class SkipsEmpty(npbn.Module):
    """Leaves its child out where there is nothing to compute."""

    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        return self.inner._apply(x, predict) if len(x) else (x, None)

    def _backward(self, grad_output, cache, input_grad):
        return grad_output if cache is None else self.inner._backward(grad_output, cache, True)


def test_a_layer_that_only_some_ranks_reach_has_the_same_gradient_on_all():
    """The sum over the ranks is what those that did reach it give; all take the same step."""

    def make():
        rng = np.random.default_rng(0)
        return npbn.Sequential(
            npbn.Linear(4, 3, dtype="f8", rng=rng),
            SkipsEmpty(npbn.Linear(3, 3, dtype="f8", rng=rng)),
        )

    compare_passes(make)


def test_a_layer_that_no_rank_reaches_gets_no_gradient():
    def prepare(net):
        net.unused = npbn.Module()
        net.unused.layer = npbn.Linear(3, 3, dtype="f8")
        net.unused._apply = lambda x, predict: (x, None)
        net.unused._backward = lambda grad, cache, wanted: grad

    expected = compare_passes(mlp, prepare)
    assert sum(grad is None for grad in expected) == 2


def test_parameters_of_several_dtypes_go_into_buckets_of_their_own():
    class Cast(npbn.Module):
        def __init__(self, dtype):
            self.dtype = dtype

        def _apply(self, x, predict):
            return x.astype(self.dtype), x.dtype

        def _backward(self, grad_output, cache, input_grad):
            return grad_output.astype(cache)

    def make():
        rng = np.random.default_rng(0)
        return npbn.Sequential(
            npbn.Linear(4, 3, dtype="f8", rng=rng),
            Cast("f4"),
            npbn.Linear(3, 3, dtype="f4", rng=rng),
            npbn.BatchNorm1d(3),
            Cast("f2"),
            npbn.Linear(3, 3, dtype="f2", rng=rng),
            Cast("f8"),
        )

    rng = np.random.default_rng(1)
    x, upstream = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    alone = make()
    alone(x)
    alone.backward(upstream / 6)

    def program(comm):
        net, part = parallel(make(), comm), [slice(0, 2), slice(2, 6)][comm.rank]
        net(x[part])
        net.backward(upstream[part] / len(x[part]))
        return grads(net)

    found = run(2, program)
    for actual, grad, first in zip(found[1], grads(alone), found[0], strict=True):
        assert actual.dtype == grad.dtype
        assert_same_bits(actual, first)
        # At most 16 roundings to float16 on the way, of numbers up to the largest or 1.
        bound = 16 * float(np.finfo("f2").eps) * max(1, np.abs(grad).max())
        assert_within(actual, grad, bound)


@pytest.mark.parametrize("late", [False, True])
def test_a_gradient_belongs_to_the_parameter_and_is_not_overwritten_later(late):
    def program(comm):
        net = parallel(twice_network() if late else mlp(), comm)
        rng = np.random.default_rng(comm.rank)
        kept = []
        for _ in range(3):
            net.zero_grad()
            net(rng.normal(size=(3, 4)))
            net.backward(rng.normal(size=(3, 3)))
            kept.append((grads(net), copy.deepcopy(grads(net))))
        for held, copies in kept:
            for grad, its_copy in zip(held, copies, strict=True):
                assert_same_bits(grad, its_copy)
                assert grad.flags.writeable

    run(2, program)


# -- failures -------------------------------------------------------------------------------------


class Broken(npbn.Module):
    """Fails in the middle of the backward pass, when told to."""

    broken = False

    def _apply(self, x, predict):
        return x, None

    def _backward(self, grad_output, cache, input_grad):
        if self.broken:
            raise ValueError("the disk is full")
        return grad_output


@pytest.mark.parametrize("size", [1, 3])
def test_an_exception_in_backward_leaves_gradients_and_removes_hooks(size):
    found = {}

    def program(comm):
        net = mlp()
        net = npbn.Sequential(net[:3], Broken(), net[3:])
        net = found[comm.rank] = parallel(net, comm)
        x = np.random.default_rng(comm.rank).normal(size=(3, 4))
        net(x)
        net.backward(net(x))
        before = copy.deepcopy(grads(net))
        held = grads(net)
        net.module[1].broken = comm.rank == size - 1
        y = net(x)
        try:
            net.backward(y)
        finally:
            assert not any(parameter._hooks for parameter in net.parameters())
            for now, then, its_copy in zip(grads(net), held, before, strict=True):
                if size > 1:
                    assert now is then
                    assert_same_bits(now, its_copy)

    with mock.patch.object(buckets, "BUCKET_BYTES", 1):
        *others, last = outcomes(size, program)
    assert isinstance(last, ValueError)
    assert all(isinstance(other, DistributedError) for other in others)


def test_gradients_that_are_not_finite_are_named_and_leave_gradients_as_they_were():
    def program(comm):
        net = parallel(mlp(), comm)
        x = np.random.default_rng(comm.rank).normal(size=(3, 4))
        net(x)
        net.backward(net.predict(x))
        held = grads(net)
        if comm.rank == 1:
            inner = net.module.fc1._backward
            net.module.fc1._backward = lambda grad, *rest: inner(grad * np.inf, *rest)
        net(x)
        try:
            with np.errstate(invalid="ignore"):
                net.backward(net.predict(x))
        finally:
            assert all(now is then for now, then in zip(grads(net), held, strict=True))
            assert not any(parameter._hooks for parameter in net.parameters())

    with mock.patch.object(buckets, "BUCKET_BYTES", 1):
        assert fails(3, program) == "gradients: rank 1: NaN or infinite values"


def test_large_finite_gradients_whose_squares_overflow_are_no_failure_and_no_warning():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3, rng=np.random.default_rng(0)), comm)
        net(np.ones((2, 4), "f4"))
        net.backward(np.full((2, 3), 1e30, "f4"))
        np.testing.assert_allclose(net.module.bias.grad, 2e30, rtol=1e-6)

    run(2, program)


def test_finite_gradients_whose_sum_overflows_say_so():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3, rng=np.random.default_rng(0)), comm)
        criterion = npbn.MSELoss("sum")
        criterion(net(np.ones((2, 4), "f4")), np.zeros((2, 3), "f4"))
        net.backward(np.full((2, 3), 1.5e38, "f4"), criterion=criterion)

    # The flag of each rank's bucket is of its own numbers; the sum is inf.
    results = outcomes(2, program)
    for result in results:
        assert result is None or isinstance(result, DistributedError), result


@pytest.mark.parametrize("with_criterion", [False, True])
def test_a_loss_that_is_not_finite_is_named_on_all_ranks(with_criterion):
    def program(comm):
        net, criterion = DataParallel(npbn.Linear(4, 3), comm), npbn.CrossEntropyLoss()
        x = np.random.default_rng(comm.rank).normal(size=(3, 4)).astype("f4")
        if comm.rank == 1:
            x[0, 0] = np.nan
        criterion(net(x), np.arange(3))
        net.backward(criterion.backward(), criterion=criterion if with_criterion else None)

    assert "expected a finite loss on all ranks, got rank 1: loss nan" in fails(3, program)


def test_different_reductions_are_refused_on_all_ranks():
    def program(comm):
        reduction = ["mean", "sum"][comm.rank]
        net, criterion = DataParallel(npbn.Linear(4, 3), comm), npbn.CrossEntropyLoss()
        criterion = npbn.CrossEntropyLoss(reduction=reduction)
        criterion(net(np.ones((3, 4), "f4")), np.arange(3))
        net.backward(criterion.backward(), criterion=criterion)

    assert "expected one reduction on all ranks" in fails(2, program)


def test_backward_needs_a_forward_pass_and_a_gradient_of_its_shape():
    def program(comm):
        net = DataParallel(npbn.Linear(4, 3), comm)
        with pytest.raises(BackwardError):
            net.backward(np.ones((2, 3), "f4"))
        net(np.ones((2, 4), "f4"))
        with pytest.raises(ShapeError):
            net.backward(np.ones((2, 2), "f4"))
        assert not any(parameter._hooks for parameter in net.parameters())
        net.backward(np.ones((2, 3), "f4"))

    run(2, program)


def one_of(*nets):
    return lambda rank: nets[min(rank, 1)]()


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (
            one_of(lambda: npbn.Linear(4, 3), lambda: npbn.Linear(4, 2)),
            ["Linear(in_features=4, out_features=3", "out_features=2"],
        ),
        (
            one_of(lambda: npbn.Linear(4, 3), lambda: npbn.Linear(4, 3, dtype="f8")),
            ["weight (3, 4) float32", "weight (3, 4) float64"],
        ),
        (
            one_of(npbn.ReLU, npbn.Sigmoid),
            ["ReLU()", "Sigmoid()"],
        ),
        (
            one_of(
                lambda: npbn.Sequential(npbn.BatchNorm1d(3)),
                lambda: npbn.Sequential(npbn.BatchNorm1d(3), npbn.ReLU()),
            ),
            ["1: ReLU()"],
        ),
        (
            one_of(lambda: npbn.BatchNorm1d(3), lambda: npbn.BatchNorm1d(3, eps=0.1)),
            ["eps=1e-05", "eps=0.1"],
        ),
        (
            one_of(lambda: npbn.BatchNorm1d(3), lambda: npbn.BatchNorm1d(3).freeze()),
            ["weight frozen"],
        ),
    ],
)
def test_another_network_on_a_rank_is_refused_on_all_with_the_difference(make, fragments):
    message = fails(3, lambda comm: DataParallel(make(comm.rank), comm))
    for part in ["DataParallel", "rank 1: ", "rank 2: ", "rank 0's network", *fragments]:
        assert part in message, message
    assert "rank 0:" not in message


# -- as a module ----------------------------------------------------------------------------------


@given(rng=rngs())
def test_all_ranks_start_from_rank_0_whatever_they_had(rng):
    seeds = rng.integers(100, size=3)

    def program(comm):
        net = mlp(seeds[comm.rank])
        for parameter in net.parameters():
            parameter.data[...] += seeds[comm.rank]
        net.batch_norm1.running_mean[...] = seeds[comm.rank]
        net.batch_norm1.num_batches_tracked[...] = seeds[comm.rank]
        kept = list(net.parameters())
        net = DataParallel(net, comm)
        assert all(a is b for a, b in zip(net.parameters(), kept, strict=True))
        assert net.module.batch_norm1.num_batches_tracked == seeds[0]
        return state_bytes(net)

    assert len(set(run(3, program))) == 1


def test_keys_modes_prediction_and_copies_are_a_modules():
    x = np.random.default_rng(0).normal(size=(5, 4))

    def program(comm):
        net = parallel(mlp(), comm)
        assert list(net.state_dict()) == [f"module.{key}" for key in mlp().state_dict()]
        comm.messages.clear()
        assert_same_bits(net.predict(x), mlp().predict(x))
        assert_same_bits(net.eval()(x), mlp().predict(x))
        assert comm.messages == []
        twin = copy.deepcopy(net.train())
        assert twin.comm is comm
        upstream = np.random.default_rng(1).normal(size=(5, 3))
        for one in (net, twin):
            one(x)
            one.backward(upstream)
        for mine, its in zip(grads(net), grads(twin), strict=True):
            assert_same_bits(mine, its)

    run(2, program)
