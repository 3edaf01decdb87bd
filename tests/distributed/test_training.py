"""Networks trained on shards against the same networks trained on whole batches."""

import itertools

import numpy as np
import pytest
from distributed.networks import NETWORKS, close, grads, mlp, parallel, state_bytes
from distributed.standin import cuts, run
from helpers import assert_same_bits, rngs
from hypothesis import given, settings
from hypothesis import strategies as st

import npbn
from npbn.distributed import DataParallel, train_step

sizes = st.integers(1, 4)


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


def some_steps(kind, shards, rng, dtype="float64", steps=50):
    make, shape = NETWORKS[kind]
    batches = rng.normal(size=(steps, shards[-1].stop, *shape)).astype(dtype)
    targets = rng.integers(3, size=batches.shape[:2])
    assert_same_training(make, batches, shards, npbn.CrossEntropyLoss, targets, dtype)


@pytest.mark.parametrize(
    ("kind", "ends", "dtype"),
    [
        ("MLP", [0, 9], "float64"),
        ("MLP", [0, 3, 9], "float64"),
        ("MLP", [0, 1, 1, 9], "float64"),
        ("MLP", [0, 0, 5, 6, 9], "float64"),
        ("MLP", [0, 2, 3, 9, 9], "float32"),
        ("CNN", [0, 6, 7, 9], "float64"),
        ("CNN", [0, 9, 9], "float32"),
    ],
)
@pytest.mark.parametrize("steps", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_steps_on_uneven_shards_are_those_of_one_process(kind, ends, dtype, steps):
    """Some with an empty shard: the first, one in the middle, the last."""
    shards = [slice(*pair) for pair in itertools.pairwise(ends)]
    some_steps(kind, shards, np.random.default_rng(len(ends)), dtype, steps)


# Of 2 samples that lie close together BatchNorm is ill-conditioned: after three steps the largest
# difference of 10,000 was 2.6e-11, of 8 to 12 samples 2.1e-15. Shards may have one sample or none.
numbers_of_samples = st.integers(8, 12)

# Half a second each, for four ranks take turns in one process.
few = settings(max_examples=max(1, settings.default.max_examples // 20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@few
@given(data=st.data(), rng=rngs())
def test_fifty_steps_on_drawn_shards_are_those_of_one_process(kind, size, data, rng):
    some_steps(kind, cuts(data.draw, data.draw(numbers_of_samples), size), rng)


@pytest.mark.slow
@few
@given(data=st.data(), rng=rngs(), size=sizes)
def test_fifty_steps_in_float32(data, rng, size):
    some_steps("MLP", cuts(data.draw, 8, size), rng, "float32")


@given(data=st.data(), rng=rngs(), size=sizes, reduction=st.sampled_from(["mean", "sum"]))
def test_class_weights_ignored_targets_and_smoothing_count_as_on_the_whole(
    data, rng, size, reduction
):
    """Also where a shard's targets are all ignored."""
    samples = data.draw(numbers_of_samples)
    shards = cuts(data.draw, samples, size)
    weight = rng.uniform(0.1, 5, 3) if data.draw(st.booleans()) else None
    smoothing = data.draw(st.sampled_from([0.0, 0.3]))
    targets = rng.choice([0, 1, 2, -1], size=(2, samples))
    nothing = data.draw(st.integers(0, size - 1))
    if shards[nothing].start > 0:  # the first sample counts: of none the loss is NaN
        targets[:, shards[nothing]] = -1
    targets[:, 0] = 1

    def criterion():
        return npbn.CrossEntropyLoss(weight, -1, reduction, smoothing)

    batches = rng.normal(size=(2, samples, 4))
    assert_same_training(mlp, batches, shards, criterion, targets)


@given(data=st.data(), rng=rngs(), size=sizes, reduction=st.sampled_from(["mean", "sum"]))
def test_squared_error(data, rng, size, reduction):
    samples = data.draw(numbers_of_samples)
    shards = cuts(data.draw, samples, size)
    batches, targets = rng.normal(size=(2, samples, 4)), rng.normal(size=(2, samples, 3))
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
    samples = data.draw(numbers_of_samples)
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
