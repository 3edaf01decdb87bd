"""The accuracy contract at its far end: a million values a channel, and where blocks end."""

import numpy as np
import pytest
from contract_cases import assert_contract
from helpers import assert_within, exact_statistics

from npbn.functional import measure
from npbn.testing import Setup, Step
from npbn.testing.tolerances import float64_unit

pytestmark = pytest.mark.usefixtures("engine")


def assert_kept(x, rng):
    """A weight and a bias of one size: the output is twice the larger of its terms."""
    x, channels = x.astype(np.float32), x.shape[1]
    vectors = np.full((4, channels), [[1.5], [1.499], [0], [1]], np.float32)
    names = "weight", "bias", "running_mean", "running_var"
    setup = Setup(channels, momentum=1.0, **dict(zip(names, vectors, strict=True)))
    assert_contract(setup, Step(x, True, rng.normal(size=x.shape).astype(np.float32)))


@pytest.mark.parametrize("ratio", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["normal", "grid", "sorted"])
@pytest.mark.slow
def test_a_million_values_a_channel(ratio, kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_000_000, 1))
    if kind == "grid":  # equal squares round the same way, again and again
        x = np.sign(x) * 0.1
    if kind == "sorted":
        x.sort(axis=0)
    assert_kept(x + ratio * x.std(), rng)


@pytest.mark.parametrize("place", [0, 500_000, -1])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e37])
@pytest.mark.parametrize("rest", [0.0, 0.3])
@pytest.mark.slow
def test_one_enormous_outlier_among_a_million(place, size, rest):
    """Where it is the first, all are centred by it: a sum that cancels 20 of 29 bits."""
    rng = np.random.default_rng(0)
    x = rest * np.sign(rng.normal(size=(1_000_000, 1))) + 0.1
    x[place] = size
    assert_kept(x, rng)


@pytest.mark.parametrize(
    "shape", [(4, 1, 250_000), (250_000, 1, 4), (1, 2, 4097), (3, 2, 4095), (40_000, 3), (5, 3000)]
)
@pytest.mark.slow
def test_large_arrays_of_any_shape(shape):
    rng = np.random.default_rng(0)
    x = rng.choice([1 / 3, -1 / 3], shape)
    x[:1] *= 1000
    assert_kept(x, rng)


def test_a_piece_of_positions_more_or_less():
    rng = np.random.default_rng(0)
    for positions in (4095, 4096, 4097):
        assert_kept(rng.normal(1, 1, (2, 1, positions)), rng)


def test_float64_centred_by_an_outlier_is_measured_a_second_time():
    """About the first value alone 20,000 values would cost 14 bits, and there are none to spare."""
    x = np.full((20_000, 1), 0.1)
    x[0], x[1::2] = 1e6, 0.3
    statistics = measure(x)
    count, mean, m2 = exact_statistics(x)
    unit = float64_unit(64)  # BLAS and compiled loops add up far fewer than 512 in order here
    assert_within(statistics.mean, mean, unit * np.sqrt(m2 / count))
    assert_within(statistics.m2, m2, unit * m2)
