"""update_batch_norm: the statistics of a data set, and nothing else is changed."""

import copy
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import along, assert_same_bits, assert_within, channels_last, exact_statistics, rngs
from hypothesis import given
from population.networks import BOTH, NETWORKS, STATISTICS, VARIANTS, drawn, everything, fill, norms

from npbn import (
    ArrayDataset,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    DataLoader,
    Flatten,
    Linear,
    Module,
    Sequential,
    Sigmoid,
)
from npbn.layers.batch_norm import BatchNorm
from npbn.population import update_batch_norm

# -- the population -------------------------------------------------------------------------


def flat(net):
    for layer in net:
        if isinstance(layer, Sequential):
            yield from flat(layer)
        else:
            yield layer


def expected_statistics(net, x, batches):
    """Yield mean and unbiased variance of each BatchNorm, and what rounding may do to either.

    All in float64, over the whole data set at once. `off` bounds how far the network's numbers
    are off: a Linear or Conv2d multiplies that by its largest Σ|weight| and adds a rounding for
    each of its terms; the statistics are off as their input is (the deviation by three times
    that: the mean moves too, and n - 1 is at least n / 2) and by four roundings for each merging,
    of the largest value; BatchNorm divides all this by the deviation.
    """
    unit = np.finfo(next(net.parameters()).dtype).eps
    x, off = x.astype(np.float64), 0.0
    for layer in flat(copy.deepcopy(net).double()):
        if isinstance(layer, Linear | Conv2d):
            absolute = copy.deepcopy(layer)
            for parameter in absolute.parameters():
                parameter.data = np.abs(parameter.data)
            weight = absolute.weight.data.reshape(len(absolute.weight.data), -1)
            terms = absolute.predict(np.abs(x)).max()
            off = off * weight.sum(axis=1).max() + (weight.shape[1] + 2) * unit * terms
        if isinstance(layer, BatchNorm):
            rows = channels_last(x)
            mean, var = rows.mean(axis=0), rows.var(axis=0, ddof=1)
            largest, std = np.abs(rows).max(), np.sqrt(var)
            steps = (4 * batches + 12) * unit
            mean_off, std_off = off + steps * largest, 3 * off + steps * (std + largest)
            yield mean, var, 2 * mean_off, 2 * (2 * std * std_off + std_off**2)
            divisor = np.sqrt(var + layer.eps)
            x_hat = (x - along(mean, x)) / along(divisor, x)
            largest = np.abs(x_hat).max()
            off = ((off + mean_off + std_off * largest) / divisor).max() + 8 * unit * (1 + largest)
            x = x_hat
            if layer.weight is not None:
                off *= np.abs(layer.weight.data).max()
                x = x_hat * along(layer.weight.data, x) + along(layer.bias.data, x)
                off += 4 * unit * np.abs(x).max()
        else:
            x = layer.predict(x)
            off += 4 * unit * isinstance(layer, Sigmoid)


@pytest.mark.parametrize("network", [*NETWORKS, *VARIANTS])
@given(
    rng=rngs(),
    dtype=st.sampled_from([np.float32, np.float64]),
    count=st.integers(8, 20),
    batch_size=st.integers(1, 21),
    form=st.sampled_from(["arrays", "tuples", "lists", "DataLoader"]),
)
def test_the_statistics_are_the_populations_whatever_the_batches(
    network, rng, dtype, count, batch_size, form
):
    make, shape = {**NETWORKS, **VARIANTS}[network]
    net = fill(make(dtype), rng)
    x = rng.normal(1, 2, (count, *shape)).astype(dtype)
    order = rng.permutation(count)
    batches = [x[order[i : i + batch_size]] for i in range(0, count, batch_size)]
    expected = list(expected_statistics(net, x, len(batches)))
    loader = {
        "arrays": batches,
        "tuples": [(batch, np.zeros(len(batch))) for batch in batches],
        "lists": [[batch, None, None] for batch in batches],
        "DataLoader": DataLoader(ArrayDataset(x, x), batch_size, shuffle=True, rng=rng),
    }[form]
    assert update_batch_norm(net, loader) is None
    assert len(expected) == len(norms(net))
    for norm, (mean, var, mean_bound, var_bound) in zip(norms(net), expected, strict=True):
        assert_within(norm.running_mean, mean, mean_bound, "running_mean")
        assert_within(norm.running_var, var, var_bound, "running_var")
        assert norm.num_batches_tracked == len(batches)


@given(
    rng=rngs(),
    count=st.integers(2, 30),
    positions=st.sampled_from([(), (3,)]),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    ratio=st.sampled_from([0, 1, 1e4, 1e8]),
)
def test_merging_loses_a_few_roundings_whatever_the_mean(rng, count, positions, cuts, ratio):
    """Four of a batch, and four of every merging, of the largest value; batches may be empty."""
    x = rng.normal(size=(count, 2, *positions)) + ratio
    norm = BatchNorm1d(2, dtype=np.float64)
    update_batch_norm(norm, np.split(x, sorted(cuts)))
    n, mean, m2 = exact_statistics(x)
    steps = 4 * (len(cuts) + 2) * np.finfo(np.float64).eps
    largest, var = np.abs(channels_last(x)).max(axis=0), m2 / (n - 1)
    assert_within(norm.running_mean, mean, steps * largest)
    off = steps * largest
    assert_within(norm.running_var, var, steps * var + 2 * np.sqrt(var) * off + off**2)


class Backwards(Module):
    """Runs its parts in another order than they are defined in, one of them never."""

    def __init__(self):
        self.last, self.never = BatchNorm1d(2), BatchNorm1d(2)
        self.first, self.linear = BatchNorm1d(2), Linear(2, 2)

    def _apply(self, x, predict):
        for layer in (self.first, self.linear, self.last):
            x, _ = layer._apply(x, predict)
        return x, None


def test_layers_are_measured_in_the_order_in_which_they_run():
    rng = np.random.default_rng(0)
    net = fill(Backwards().double(), rng)
    plain = Sequential(net.first, net.linear, net.last)
    data = [rng.normal(size=(5, 2)) for _ in range(3)]
    twin, never = copy.deepcopy(plain), copy.deepcopy(net.never)
    update_batch_norm(net, data)
    update_batch_norm(twin, data)
    for key, value in twin.state_dict().items():
        assert_same_bits(plain.state_dict()[key], value, key)
    for key, value in never.state_dict().items():
        assert_same_bits(net.never.state_dict()[key], value, key)


@BOTH
def test_a_norm_that_no_data_reach_keeps_its_statistics(average_batches):
    net = fill(Backwards(), np.random.default_rng(0))
    before = copy.deepcopy(net.never).state_dict()
    data = iter([np.eye(2, dtype=np.float32)]) if average_batches else [np.eye(2, dtype=np.float32)]
    update_batch_norm(net, data, average_batches=average_batches)
    for key, value in before.items():
        assert_same_bits(net.never.state_dict()[key], value, key)
    assert net.first.num_batches_tracked == 1


def test_a_norm_that_runs_twice_is_measured_by_all_that_reaches_it():
    """While it normalises by the statistics that it had."""
    rng = np.random.default_rng(0)
    norm, linear = fill(BatchNorm1d(2).double(), rng), fill(Linear(2, 2).double(), rng)
    x = rng.normal(size=(6, 2))
    reaching = np.concatenate([x, linear.predict(norm.predict(x))])
    update_batch_norm(Sequential(norm, linear, norm), [x[:2], x[2:]])
    bound = 100 * np.finfo(np.float64).eps * np.abs(reaching).max() ** 2
    assert_within(norm.running_mean, reaching.mean(axis=0), bound)
    assert_within(norm.running_var, reaching.var(axis=0, ddof=1), bound)


@BOTH
@given(rng=rngs())
def test_nothing_but_the_statistics_of_what_is_not_frozen_changes(average_batches, rng):
    net, data = drawn(rng), [rng.normal(1, 2, (5, 3)) for _ in range(3)]
    twin = copy.deepcopy(net)
    y = net(data[0])
    twin(data[0])
    before, arrays = everything(net), [array for _, array in net._state()]
    update_batch_norm(net, data, average_batches=average_batches)
    after = everything(net)
    assert after.keys() == before.keys()
    changed = {key for key in before if before[key] != after[key]}
    learnt = ("norm", "part.norm", "last")
    assert changed == {(name, key) for name in learnt for key in STATISTICS}
    assert all(a is b for a, (_, b) in zip(arrays, net._state(), strict=True))
    grad = rng.normal(size=y.shape)
    assert_same_bits(net.backward(grad), twin.backward(grad))


@BOTH
def test_a_frozen_norm_normalises_by_its_own_statistics(average_batches):
    rng = np.random.default_rng(0)
    net = fill(Sequential(BatchNorm1d(2), BatchNorm1d(2, affine=False)).double(), rng)
    net[0].freeze()
    net.train()
    x = rng.normal(size=(8, 2))
    reaching = net[0].predict(x)
    update_batch_norm(net, [x], average_batches=average_batches)
    bound = 50 * np.finfo(np.float64).eps * np.abs(reaching).max() ** 2
    assert_within(net[1].running_mean, reaching.mean(axis=0), bound)
    assert_within(net[1].running_var, reaching.var(axis=0, ddof=1), bound)


def test_an_iterator_is_enough_for_one_norm():
    norm = BatchNorm1d(3, dtype=np.float64)
    update_batch_norm(norm, iter(2 * [np.eye(3)]))
    assert norm.num_batches_tracked == 2


@BOTH
def test_without_a_norm_to_measure_no_pass_is_made(average_batches):
    frozen = Sequential(Linear(3, 2), BatchNorm1d(2)).freeze()
    for net in (Linear(3, 2), frozen, BatchNorm1d(2, track_running_stats=False)):
        update_batch_norm(net, map(pytest.fail, ["a pass"]), average_batches=average_batches)


@BOTH
@pytest.mark.parametrize("without", ["num_batches_tracked", "track_running_stats"])
def test_statistics_that_training_does_not_count_or_track_are_set(without, average_batches):
    """Without a counter nothing happened, without a word."""
    net = Sequential(BatchNorm1d(1, dtype=np.float64), BatchNorm1d(1, dtype=np.float64))
    x = np.array([[1.0], [2.0], [6.0]])
    twin = copy.deepcopy(net)
    update_batch_norm(twin, [x], average_batches=average_batches)
    net[0].num_batches_tracked = None if without == "num_batches_tracked" else np.array(5)
    net[0].track_running_stats = without != "track_running_stats"
    update_batch_norm(net, [x], average_batches=average_batches)
    assert (net[0].running_mean, net[0].running_var) == (3, 7)
    assert (net[1].running_mean, net[1].running_var) == (
        twin[1].running_mean,
        twin[1].running_var,
    )
    assert net[0].num_batches_tracked == (None if without == "num_batches_tracked" else 1)
    assert net[0].track_running_stats == (without != "track_running_stats")


@np.errstate(all="raise")
def test_nan_and_infinity_are_data():
    x = np.array([[1.0, np.nan, 1.0], [2.0, 1.0, np.inf], [6.0, 1.0, 1.0]])
    norm = BatchNorm1d(3, dtype=np.float64)
    update_batch_norm(norm, [x[:1], x[1:]])
    assert (norm.running_mean[0], norm.running_var[0]) == (3, 7)
    assert math.isnan(norm.running_mean[1])
    assert not np.isfinite(norm.running_mean[2])
    assert np.isnan(norm.running_var[1:]).all()


@np.errstate(all="raise")
def test_a_variance_beyond_float32_is_infinite():
    norm = BatchNorm1d(1)
    update_batch_norm(norm, [np.array([[-1e30], [1e30]], np.float32)])
    assert (norm.running_mean, norm.running_var) == (0, np.inf)


def test_images_are_measured_by_channel():
    x = np.random.default_rng(0).normal(3, 2, (5, 2, 3, 4)).astype(np.float32)
    net = Sequential(BatchNorm2d(2), Flatten())
    update_batch_norm(net, [x[:1], x[1:]])
    rows = channels_last(x.astype(np.float64))
    unit = np.finfo(np.float32).eps
    assert_within(net[0].running_mean, rows.mean(axis=0), unit * np.abs(rows.mean(axis=0)))
    assert_within(net[0].running_var, rows.var(axis=0, ddof=1), unit * rows.var(axis=0))
