import dataclasses
import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.testing.conventions import (
    CONVENTIONS,
    Convention,
    convert,
    convert_momentum,
    convert_running_var,
)

names = st.sampled_from(sorted(CONVENTIONS))
momenta = st.floats(0, 1)
decimals = st.integers(0, 10_000).map(lambda digits: digits / 10_000)
counts = st.integers(2, 10**6)
seeds = st.integers(0, 2**32 - 1)

# Every framework's update of its running statistics, as its own documentation writes it.
UPDATES = {
    "pytorch": lambda old, new, momentum: (1 - momentum) * old + momentum * new,
    "cudnn": lambda old, new, momentum: new * momentum + old * (1 - momentum),
    "onnx": lambda old, new, momentum: old * momentum + new * (1 - momentum),
    "keras": lambda old, new, momentum: old * momentum + new * (1 - momentum),
    "flax": lambda old, new, momentum: momentum * old + (1 - momentum) * new,
    # once there are batches enough that nothing is left to be debiased
    "haiku": lambda old, new, momentum: old * momentum + new * (1 - momentum),
    "equinox": lambda old, new, momentum: (1 - momentum) * new + momentum * old,
    "paddle": lambda old, new, momentum: old * momentum + new * (1.0 - momentum),
    "mxnet": lambda old, new, momentum: old * momentum + new * (1 - momentum),
    # the kernel takes exponential_avg_factor = 1 - momentum from the layer
    "tensorflow_fused": lambda old, new, momentum: momentum * old + (1 - momentum) * new,
}
DEGREES_OF_FREEDOM = {"pytorch": 1, "cudnn": 1, "tensorflow_fused": 1}


def train(name, batches, momentum, running_mean=0.0, running_var=1.0):
    """Train the framework's running statistics on one channel's batches."""
    update = UPDATES[name]
    for x in batches:
        running_mean = update(running_mean, x.mean(), momentum)
        variance = x.var(ddof=DEGREES_OF_FREEDOM.get(name, 0))
        running_var = update(running_var, variance, momentum)
    return running_mean, running_var


# -- the data -----------------------------------------------------------------------------------


def test_defaults_are_those_of_torch_and_of_npbn():
    pytorch = CONVENTIONS["pytorch"]
    for cls in (torch.nn.BatchNorm1d, npbn.BatchNorm1d):
        defaults = inspect.signature(cls).parameters
        assert defaults["eps"].default == pytorch.eps
        assert defaults["momentum"].default == pytorch.momentum
    assert pytorch.cumulative


def test_every_convention_says_where_it_comes_from():
    assert set(UPDATES) == set(CONVENTIONS)
    for convention in CONVENTIONS.values():
        assert convention.source
    assert "fused" in CONVENTIONS["keras"].note


def test_conventions_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONVENTIONS["keras"].momentum = 0.9


def test_pytorch_does_what_its_convention_says():
    x = np.array([[1.0], [2.0], [3.0], [6.0]])
    layer = torch.nn.BatchNorm1d(1, momentum=0.25, dtype=torch.float64)
    layer(torch.from_numpy(x))
    mean, var = train("pytorch", [x], 0.25)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean)
    np.testing.assert_allclose(layer.running_var.numpy(), var)


# -- momentum -----------------------------------------------------------------------------------


@given(momenta, names, names)
def test_momentum_there_and_back(momentum, source, target):
    converted = convert_momentum(momentum, source, target)
    back = convert_momentum(converted, target, source)
    assert 0 <= converted <= 1
    # 1 − momentum is rounded once each way, to half a unit in the last place of at most 1
    assert abs(Fraction(back) - Fraction(momentum)) <= 2 * Fraction(1, 2**53)


@given(decimals, names, names)
def test_momenta_that_people_write_come_back_as_they_were(momentum, source, target):
    assert convert_momentum(convert_momentum(momentum, source, target), target, source) == momentum


@pytest.mark.parametrize(
    ("momentum", "source", "target", "expected"),
    [
        (0.1, "pytorch", "keras", 0.9),
        (0.99, "keras", "pytorch", 0.01),
        (0.9, "onnx", "flax", 0.9),
        (0.1, "pytorch", "cudnn", 0.1),
        (0, "pytorch", "onnx", 1.0),
        (np.float64(1), "flax", "pytorch", 0.0),
    ],
)
def test_momentum_of_the_documentation(momentum, source, target, expected):
    assert convert_momentum(momentum, source, target) == expected


def test_momentum_none_is_for_those_who_take_it():
    assert convert_momentum(None, "pytorch", "pytorch") is None
    for other in sorted(set(CONVENTIONS) - {"pytorch"}):
        for pair in [("pytorch", other), (other, "pytorch"), (other, other)]:
            with pytest.raises(ValueError, match=r"None.* is unknown to .*convert 1 / t"):
                convert_momentum(None, *pair)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, np.nan, np.inf, -np.inf])
def test_momentum_out_of_range(momentum):
    for pair in [("pytorch", "keras"), ("pytorch", "pytorch")]:
        with pytest.raises(ValueError, match=r"momentum in \[0, 1\]"):
            convert_momentum(momentum, *pair)


@pytest.mark.parametrize("momentum", ["0.1", [0.1], True, 1j])
def test_momentum_that_is_no_number(momentum):
    with pytest.raises(TypeError, match="expected momentum to be a number"):
        convert_momentum(momentum, "pytorch", "keras")


@pytest.mark.parametrize("pair", [("torch", "keras"), ("keras", "caffe")])
def test_unknown_names(pair):
    with pytest.raises(ValueError, match="expected one of pytorch, onnx, keras"):
        convert(0.1, [1.0], *pair, count=2)


# -- the running variance -----------------------------------------------------------------------


@given(seeds, counts, names, names, st.sampled_from([np.float32, np.float64]))
def test_running_var_there_and_back(seed, count, source, target, dtype):
    var = np.random.default_rng(seed).lognormal(0, 10, 3).astype(dtype)
    converted = convert_running_var(var, count, source, target)
    assert converted.dtype == dtype
    assert not np.shares_memory(converted, var)
    back = convert_running_var(converted, count, target, source)
    # two factors n / (n − 1), two products, two results: each rounded once
    np.testing.assert_allclose(back, var, rtol=6 * np.finfo(dtype).eps)


@given(seeds, st.integers(2, 6), names, names, momenta, st.integers(1, 5))
def test_training_there_is_training_here_converted(seed, count, source, target, momentum, steps):
    rng = np.random.default_rng(seed)
    batches = rng.normal(rng.normal(), rng.lognormal(), (steps, count))
    target_momentum = convert_momentum(momentum, source, target)
    source_mean, source_var = train(source, batches, momentum)
    target_mean, target_var = train(target, batches, target_momentum)

    weight = momentum if CONVENTIONS[source].momentum_weighs == "new" else 1 - momentum
    left = (1 - weight) ** steps  # of the 1 that both began with
    got = convert_running_var(source_var, count, source, target, initial=left)
    np.testing.assert_allclose(target_mean, source_mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(got, target_var, rtol=1e-12, atol=1e-14)


@given(seeds, st.integers(2, 6), names, names, st.sampled_from([0.25, 0.5, 0.75]))
def test_training_goes_on_where_another_framework_left_off(seed, count, source, target, momentum):
    """Without `initial`, the conversion is exact once the first value is forgotten."""
    rng = np.random.default_rng(seed)
    batches = rng.normal(1, 2, (150, count))  # 0.75 ** 130 is below 1e-16
    mean, var = train(source, batches[:130], momentum)
    target_momentum, var = convert(momentum, var, source, target, count)
    got = train(target, batches[130:], target_momentum, mean, var)
    np.testing.assert_allclose(got, train(target, batches, target_momentum), rtol=1e-12)


def test_batches_of_different_sizes_cannot_be_converted_exactly():
    batches = [np.array([0.0, 1.0]), np.array([0.0, 3.0, 0.0, 3.0])]
    momentum = 0.5
    wanted = train("pytorch", batches, momentum, running_var=0.0)[1]
    stored = train("keras", batches, momentum, running_var=0.0)[1]
    for count in (2, 3, 4):
        assert abs(convert_running_var(stored, count, "keras", "pytorch") - wanted) > 0.01


def test_running_var_scalars_integers_and_empty():
    assert convert_running_var(3.0, 4, "keras", "pytorch") == 4
    assert convert_running_var([3, 6], 4, "keras", "pytorch").dtype == np.float64
    assert convert_running_var(np.empty(0, np.float32), 4, "keras", "pytorch").shape == (0,)
    assert convert_running_var([3.0], None, "keras", "flax").tolist() == [3.0]


def test_running_var_lets_the_special_values_through():
    var = np.array([np.nan, np.inf, np.finfo(np.float32).max], np.float32)
    with np.errstate(all="raise"):
        got = convert_running_var(var, 2, "keras", "pytorch")
    np.testing.assert_array_equal(got, np.array([np.nan, np.inf, np.inf], np.float32))


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (None, ValueError, "stores the biased variance .* the unbiased one: expected count"),
        (1, ValueError, "no unbiased variance of one value"),
        (0, ValueError, "count of at least 2"),
        (4.0, TypeError, "integer"),
    ],
)
def test_running_var_with_a_count_that_will_not_do(count, error, message):
    with pytest.raises(error, match=message):
        convert_running_var([1.0], count, "keras", "pytorch")


def test_a_convention_of_ones_own():
    mine = Convention("mine", "old", "unbiased", 1e-5, 0.9, "a header of ours", cumulative=True)
    assert convert_momentum(None, "pytorch", mine) is None
    momentum, var = convert(0.1, [4.0], "pytorch", mine)
    assert (momentum, var.tolist()) == (0.9, [4.0])


def test_convert_takes_the_rest_of_the_initial_value():
    momentum, var = convert(0.9, [4.0], "keras", "pytorch", 4, initial=1.0)
    assert (momentum, var.tolist()) == (0.1, [5.0])
