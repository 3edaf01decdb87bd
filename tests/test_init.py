"""init: bounds, distribution, and that every draw comes from the Generator that was passed."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import assert_same_bits
from hypothesis import given

import npbn
from npbn import init, models
from npbn.errors import ShapeError

DTYPES = [np.float32, np.float64]
seeds = st.integers(0, 2**32 - 1)
FILLS = {
    "uniform_": lambda values, rng: init.uniform_(values, -2, 3, rng=rng),
    "normal_": lambda values, rng: init.normal_(values, 1, 2, rng=rng),
    "kaiming_uniform_": lambda values, rng: init.kaiming_uniform_(values, 0.5, rng=rng),
}
BUILDS = {
    "Linear": lambda rng, dtype=np.float32: npbn.Linear(5, 4, dtype=dtype, rng=rng),
    "MLP": lambda rng, dtype=np.float32: npbn.MLP(5, 4, 3, dtype=dtype, rng=rng),
    "plain MLP": lambda rng, dtype=np.float32: npbn.MLP(5, 4, 3, False, dtype=dtype, rng=rng),
    "CNN": lambda rng, dtype=np.float32: models.CNN(1, 4, 4, 3, dtype=dtype, rng=rng),
    "plain CNN": lambda rng, dtype=np.float32: models.CNN(1, 4, 4, 3, False, dtype=dtype, rng=rng),
}


def largest_distance(sample, cdf):
    """Return the Kolmogorov-Smirnov distance of a sample from a distribution."""
    expected = cdf(np.sort(sample, axis=None))
    steps = np.arange(sample.size + 1) / sample.size
    return max((steps[1:] - expected).max(), (expected - steps[:-1]).max())


def assert_distributed(sample, cdf):
    """Dvoretzky-Kiefer-Wolfowitz with Massart's constant: false by chance once in 10^9."""
    assert largest_distance(sample, cdf) <= math.sqrt(math.log(2e9) / (2 * sample.size))


def uniform_cdf(bound):
    return lambda x: (x + bound) / (2 * bound)


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(DTYPES), seeds)
def test_linears_default_is_within_one_over_the_root_of_fan_in(inputs, outputs, dtype, seed):
    layer = npbn.Linear(inputs, outputs, dtype=dtype, rng=np.random.default_rng(seed))
    bound = dtype(1 / math.sqrt(inputs)) * (1 + 2 * np.finfo(dtype).eps)  # a product and a root
    assert abs(layer.weight.data).max() <= bound
    assert abs(layer.bias.data).max() <= bound


def test_linears_default_is_distributed_as_torchs():
    """Both are U(-b, b): the same range, variance b²/3, and all else."""
    torch.manual_seed(0)
    mine, its = npbn.Linear(300, 500, rng=np.random.default_rng(0)), torch.nn.Linear(300, 500)
    bound = 1 / math.sqrt(300)
    for name in ("weight", "bias"):
        for sample in (getattr(mine, name).data, getattr(its, name).detach().numpy()):
            assert_distributed(sample, uniform_cdf(bound))
    for weight in (mine.weight.data, its.weight.detach().numpy()):
        # The largest of n draws misses the bound by bound · k / n with a chance of exp(-k / 2);
        # the variance of x² is 4 b⁴ / 45, and six standard deviations are one in 10^9.
        assert bound * (1 - 50 / weight.size) <= abs(weight).max() <= bound * (1 + 1e-6)
        spread = 6 * bound**2 * math.sqrt(4 / 45 / weight.size)
        assert abs(np.mean(weight.astype(np.float64) ** 2) - bound**2 / 3) <= spread


RESETTABLE = {
    "Linear": lambda library, **options: library.Linear(60, 500, **options),
    "Conv2d": lambda library, **options: library.Conv2d(12, 100, (3, 5), **options),
    "grouped": lambda library, **options: library.Conv2d(48, 100, (3, 5), groups=4, **options),
}


@pytest.mark.parametrize("layer", RESETTABLE)
def test_reset_parameters_draws_from_torchs_distribution(layer):
    """U(-b, b) with b = 1 / √fan_in, of 60 or 12 · 3 · 5 terms, for weight and bias."""
    torch.manual_seed(1)
    mine, its = RESETTABLE[layer](npbn), RESETTABLE[layer](torch.nn)
    for parameter in mine.parameters():
        parameter.data[...] = 7
    mine.reset_parameters(np.random.default_rng(1))
    its.reset_parameters()
    bound = 1 / math.sqrt(60 if layer == "Linear" else 180)
    for name in ("weight", "bias"):
        for sample in (getattr(mine, name).data, getattr(its, name).detach().numpy()):
            assert_distributed(sample, uniform_cdf(bound))


@pytest.mark.parametrize("layer", RESETTABLE)
@pytest.mark.parametrize("bias", [True, False])
def test_reset_parameters_makes_a_layer_as_new(layer, bias):
    new = RESETTABLE[layer](npbn, bias=bias, rng=np.random.default_rng(2))
    used = RESETTABLE[layer](npbn, bias=bias, rng=np.random.default_rng(3))
    arrays = [parameter.data for parameter in used.parameters()]
    used.reset_parameters(np.random.default_rng(2))
    assert all(p.data is array for p, array in zip(used.parameters(), arrays, strict=True))
    for key, value in new.state_dict().items():
        assert_same_bits(used.state_dict()[key], value, key)


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    st.floats(0, 10),
    st.sampled_from(DTYPES),
    seeds,
)
def test_kaiming_uniform_keeps_torchs_bound(shape, a, dtype, seed):
    gain = torch.nn.init.calculate_gain("leaky_relu", a)
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert init.calculate_fan_in(np.empty(shape)) == fan_in
    bound = gain * math.sqrt(3 / fan_in)
    values = init.kaiming_uniform_(np.empty(shape, dtype), a, rng=np.random.default_rng(seed))
    rounding = 1 + 4 * np.finfo(dtype).eps
    assert abs(values).max() <= bound * rounding
    # The same Generator's U(0, 1), carried to ±bound; eight roundings of numbers up to bound.
    expected = bound * (2 * np.random.default_rng(seed).random(shape) - 1)
    np.testing.assert_allclose(values, expected, rtol=0, atol=8 * np.finfo(dtype).eps * bound)


def test_kaiming_uniform_uniform_and_normal_are_distributed_as_they_say():
    rng = np.random.default_rng(0)
    shape = (200, 100)
    he = init.kaiming_uniform_(np.empty(shape), rng=rng)
    assert_distributed(he, uniform_cdf(math.sqrt(6 / 100)))
    assert_distributed(init.uniform_(np.empty(shape), 2, 5, rng=rng), lambda x: (x - 2) / 3)
    normal = init.normal_(np.empty(shape), 2, 0.5, rng=rng)
    erf = np.vectorize(math.erf)
    assert_distributed(normal, lambda x: (1 + erf((x - 2) / (0.5 * math.sqrt(2)))) / 2)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_filling_is_in_place_for_a_parameter_and_an_array(fill, dtype):
    parameter = npbn.Parameter(np.zeros((3, 2), dtype))
    data = parameter.data
    assert FILLS[fill](parameter, np.random.default_rng(1)) is parameter
    assert parameter.data is data
    assert data.dtype == dtype
    values = np.asfortranarray(np.zeros((3, 2), dtype))
    assert FILLS[fill](values, np.random.default_rng(1)) is values
    np.testing.assert_array_equal(values, data)
    assert np.unique(data).size == data.size


@pytest.mark.parametrize("build", BUILDS)
def test_one_seed_gives_one_network_whatever_the_dtype(build):
    double = BUILDS[build](np.random.default_rng(3), np.float64)
    again = BUILDS[build](np.random.default_rng(3), np.float64)
    single = BUILDS[build](np.random.default_rng(3), np.float32)
    other = BUILDS[build](np.random.default_rng(4), np.float64)
    for key, value in double.state_dict().items():
        assert_same_bits(again.state_dict()[key], value)
        expected = value if key.endswith("tracked") else value.astype(np.float32)
        assert_same_bits(single.state_dict()[key], expected)
        if "norm" not in key:
            assert (other.state_dict()[key] != value).all()


def test_a_linear_draws_its_weight_first_then_its_bias():
    layer = npbn.Linear(4, 3, dtype=np.float64, rng=np.random.default_rng(5))
    rng = np.random.default_rng(5)
    expected = rng.uniform(-0.5, 0.5, 12), rng.uniform(-0.5, 0.5, 3)
    found = layer.weight.data.ravel(), layer.bias.data
    for mine, its in zip(found, expected, strict=True):  # the bound itself is rounded thrice
        np.testing.assert_allclose(mine, its, rtol=0, atol=4 * np.finfo(float).eps)
    first = layer.state_dict()
    layer.reset_parameters(np.random.default_rng(5))
    assert_same_bits(layer.weight.data, first["weight"])


@pytest.mark.parametrize("build", BUILDS)
def test_without_a_generator_each_network_is_another_and_numpys_global_state_untouched(build):
    before = np.random.get_state()  # noqa: NPY002
    first, second = BUILDS[build](None), BUILDS[build](None)
    BUILDS[build](np.random.default_rng(0))
    after = np.random.get_state()  # noqa: NPY002
    assert all((a != b).any() for a, b in _weights(first, second))
    assert before[0] == after[0]
    assert_same_bits(after[1], before[1])
    assert after[2:] == before[2:]


def _weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    return [(a, b) for (key, a), b in pairs if "norm" not in key]


@pytest.mark.parametrize("rng", [0, "seed", np.random, np.random.RandomState(0)])
@pytest.mark.parametrize("use", [*BUILDS, *FILLS])
def test_an_rng_that_is_no_generator_is_refused(use, rng):
    values = np.zeros((2, 2))
    with pytest.raises(TypeError, match=r"rng: expected a numpy\.random\.Generator"):
        BUILDS[use](rng) if use in BUILDS else FILLS[use](values, rng)
    assert not values.any()


@pytest.mark.parametrize("shape", [(), (3,)])
def test_fan_in_needs_two_axes(shape):
    with pytest.raises(ShapeError, match="calculate_fan_in"):
        init.kaiming_uniform_(np.zeros(shape))


def test_no_inputs_at_all_are_no_error():
    layer = npbn.Linear(0, 2)
    assert layer.weight.shape == (2, 0)
    np.testing.assert_array_equal(
        layer.predict(np.zeros((3, 0), np.float32)), layer.bias.data + np.zeros((3, 2))
    )


def test_numbers_beyond_float16_are_infinite_without_a_warning():
    parameter = npbn.Parameter(np.zeros(100, np.float16))
    with np.errstate(all="raise"):
        npbn.init.normal_(parameter, std=1e9, rng=np.random.default_rng(0))
    assert np.isinf(parameter.data).any()
