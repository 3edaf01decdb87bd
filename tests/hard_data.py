"""Data that make BatchNorm lose digits: (generator, shape) to float64 values, and such shapes."""

import numpy as np
from helpers import along
from hypothesis import strategies as st

# One more and one less than the numbers of rows and positions that the loops take at once.
AROUND = sorted({m * n + d for n in (4, 8, 16, 64, 256, 512) for m in (1, 2) for d in (-1, 0, 1)})


@st.composite
def shapes(draw, most=1025):
    """Draw (N, C) or (N, C, ...) of 2 to about `most` values a channel."""
    count = draw(st.sampled_from([n for n in (2, *AROUND) if n <= most]))
    channels = draw(st.sampled_from([1, 2, 3, 9]))
    positions = draw(st.sampled_from([(), (1,), (3,), (17,), (5, 7), (2, 3, 2)]))
    if draw(st.booleans()):  # a few samples of many positions
        return (draw(st.integers(1, 3)), channels, count)
    return (max(count // max(int(np.prod(positions)), 1), 2), channels, *positions)


def column(rng, shape):
    """Return one drawn power of ten for each channel, to multiply by."""
    return along(10.0 ** rng.integers(-6, 7, shape[1]), np.empty(shape))


def far(rng, shape):
    ratio = rng.choice([-1, 1]) * 10.0 ** rng.uniform(0, 6)
    return (rng.normal(size=shape) + ratio) * column(rng, shape)


def constant(rng, shape):
    return np.broadcast_to(along(rng.normal(size=shape[1]), np.empty(shape)), shape) * 1e3


def nearly_constant(rng, shape):
    """All but one value are the same: the first, or any other."""
    x = np.ones(shape)
    x.flat[rng.integers(x.size) if rng.random() < 0.5 else 0] += rng.choice([1e-6, 1.0, -2.0])
    return x * column(rng, shape)


def outlier(rng, shape):
    x = far(rng, shape) if rng.random() < 0.3 else rng.normal(size=shape)
    sample = rng.choice([0, len(x) - 1, rng.integers(len(x))])
    x[(sample, slice(None), *(rng.integers(n) for n in shape[2:]))] = 10.0 ** rng.uniform(1, 37)
    return x


def in_order(rng, shape):
    """Sorted along samples and positions: partial sums drift."""
    count = int(np.prod(shape)) // shape[1]
    rows = np.sort(rng.normal(size=(shape[1], count)), axis=1)[:, :: rng.choice([-1, 1])]
    return np.moveaxis(rows.reshape(shape[1], shape[0], *shape[2:]), 0, 1) + rng.choice([0, 1e4])


def grid(rng, shape):
    """Few values, whose squares all round the same way."""
    return rng.choice([0.1, 0.3, -0.7], shape) * column(rng, shape) + rng.choice([0, 1e5])


def heavy_tails(rng, shape):
    return (rng.standard_cauchy(shape) ** 3).clip(-1e37, 1e37)


def any_magnitude(rng, shape):
    return rng.normal(size=shape).clip(-1, 1) * 10.0 ** rng.uniform(-45, 37)


def all_magnitudes(rng, shape):
    return rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-45, 37, shape)


DATA = [
    far,
    constant,
    nearly_constant,
    outlier,
    in_order,
    grid,
    heavy_tails,
    any_magnitude,
    all_magnitudes,
]
