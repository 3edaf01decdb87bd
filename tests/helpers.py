"""What the tests share: drawn inputs, memory layouts, torch's side, and comparisons by bound.

A tolerance is a bound: the number of rounded operations, times the machine epsilon, times the
magnitude of the terms that are summed. The two sides of a comparison each have one, so that a
bound states twice what one side may lose; ``eps`` being two units of roundoff takes care of it.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from npbn.testing import numerical_gradient as numerical_gradient  # for the tests of layers

# What npbn computes in, and what torch computes the reference in.
DTYPE_PAIRS = [("float64", "float64"), ("float32", "float32"), ("float32", "float64")]
SPECIALS = (np.nan, np.inf, -np.inf)

LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "channels last": lambda x: _channels_last(x),
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "negative strides": lambda x: np.flip(np.flip(x).copy()),
    "read only": lambda x: _read_only(x.copy()),
    "unaligned": lambda x: _unaligned(x),
}
layouts = st.sampled_from(sorted(LAYOUTS))

# For a test that itself computes by both engines: the fixture `engine` does not repeat it.
by_both_engines = pytest.mark.parametrize("engine", ["numba"], indirect=True)


def _channels_last(x):
    """NHWC in memory, viewed as NCHW."""
    return np.moveaxis(np.moveaxis(x, 1, -1).copy(order="C"), -1, 1) if x.ndim > 2 else x


def _read_only(x):
    x.flags.writeable = False
    return x


def _unaligned(x):
    y = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


# -- drawing ------------------------------------------------------------------------------------


def rngs():
    """Generators: hypothesis draws shapes and options, values come from one of these."""
    return st.builds(np.random.default_rng, st.integers(0, 2**32 - 1))


@st.composite
def batch_shapes(draw, ranks=(2, 3), max_channels=4):
    """Shapes (N, C, ...) with at least two values per channel."""
    rank = draw(st.sampled_from(ranks))
    sizes = draw(st.lists(st.integers(1, 4), min_size=rank - 1, max_size=rank - 1))
    if math.prod(sizes) == 1:
        sizes[0] = draw(st.integers(2, 30))
    return (sizes[0], draw(st.integers(1, max_channels)), *sizes[1:])


def channel_scales(rng, channels, dtype):
    """Draw mean / std and std of every channel: |mean| / std up to 30, in float64 up to 1e4."""
    ratios = [0, 1, -30, 1e4] if np.dtype(dtype) == np.float64 else [0, 1, -30]
    return rng.choice(ratios, channels), rng.choice([0.01, 1, 100], channels)


def batch(rng, shape, dtype, scales=None):
    """Return a batch whose channels have the means and deviations of `channel_scales`.

    A channel is a shuffled, perturbed grid: its deviation is of the order asked for, however
    few values it has.
    """
    channels, count = shape[1], math.prod(shape) // max(shape[1], 1)
    ratio, std = channel_scales(rng, channels, dtype) if scales is None else scales
    grid = np.linspace(-2, 2, count) + rng.uniform(-0.4, 0.4, (channels, count)) / max(count, 1)
    x = (rng.permuted(grid, axis=1) + ratio[:, None]) * std[:, None]
    return np.moveaxis(x.reshape(channels, shape[0], *shape[2:]), 0, 1).astype(dtype, order="C")


def sprinkle(rng, array, values=SPECIALS, share=0.15):
    """Return a copy of `array` with some of its elements replaced by drawn `values`."""
    return np.where(rng.random(array.shape) < share, rng.choice(values, array.shape), array).astype(
        array.dtype
    )


# -- modules ------------------------------------------------------------------------------------


def make_read_only(module, name):
    """Make a parameter or buffer of this key read-only; return the module."""
    dict(module._state())[name].flags.writeable = False
    return module


def values_of(net):
    return {key: array.tolist() for key, array in net.state_dict().items()}


# -- torch --------------------------------------------------------------------------------------


def tensor(x, dtype=None, requires_grad=False):
    """Return a copy of `x` as a tensor; None stays None."""
    if x is None:
        return None
    import torch  # not every Python has it: see conftest.py

    return torch.tensor(np.asarray(x, dtype)).requires_grad_(requires_grad)


def array(x):
    """Return a tensor's values as an array; None stays None."""
    return None if x is None else x.detach().numpy()


# -- comparing ----------------------------------------------------------------------------------


def assert_within(actual, expected, bound, what="result"):
    """Assert |actual − expected| <= bound by element; NaN and infinities must be the same."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.where(finite, 0, actual), np.where(finite, 0, expected), what)
    assert np.isfinite(actual[finite]).all(), f"{what}: expected finite values, got {actual}"
    error = np.abs(actual[finite] - expected[finite])
    bound = np.broadcast_to(bound, expected.shape)[finite]
    assert np.isfinite(bound).all(), f"{what}: the bound says nothing"
    excess = error - bound
    assert (excess <= 0).all(), f"{what}: off by {error.max()}, {excess.max()} over the bound"


def assert_same_bits(actual, expected, what="result"):
    """Assert equal dtype, shape and bytes (so that NaN equals NaN); None equals None."""
    assert (actual is None) == (expected is None), what
    if actual is not None:
        assert np.asarray(actual).dtype == np.asarray(expected).dtype, what
        assert np.shape(actual) == np.shape(expected), what
        assert np.asarray(actual).tobytes() == np.asarray(expected).tobytes(), what


def quantum(dtype):
    """Return the smallest positive number of a float dtype, what underflow may lose."""
    return float(np.finfo(dtype).smallest_subnormal)


# -- batch norm ---------------------------------------------------------------------------------


def channels_last(x):
    """Return x as rows of one value of each channel, shape (count, C)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def exact_statistics(x):
    """Return count, mean and m2 per channel, computed exactly and rounded once."""
    rows = channels_last(x)
    means, m2s = zip(*map(_exact, rows.T), strict=True)
    return len(rows), np.array(means), np.array(m2s)


def _exact(values):
    ratios = [float(value).as_integer_ratio() for value in values]
    scale = max(denominator for _, denominator in ratios)  # all of them are powers of two
    multiples = [numerator * (scale // denominator) for numerator, denominator in ratios]
    count, total = len(multiples), sum(multiples)
    squares = count * sum(m * m for m in multiples) - total * total
    return float(Fraction(total, count * scale)), float(Fraction(squares, count * scale**2))


def along(values, x):
    """View (C,) values along axis 1 of `x`."""
    return np.reshape(values, (-1, *(1,) * (x.ndim - 2)))


class BatchNormBounds:
    """What rounding may do to the results of batch norm, to first order.

    With eps the machine epsilon, n values a channel and M = max(|x|, |mean|), either side loses
    at most n eps M in the mean, and (n + 8) eps of the variance; the two enter
    x̂ = (x − mean) / std as (n + 8) eps κ (1 + |x̂|) with κ = 1 + M / std, the digits that
    centring cancels. Outputs and gradients sum products of x̂, with up to two factors x̂, each
    of which brings this in once: k = 4 (n + 8) covers them and both sides.
    Running statistics add a rounding at every step, and keep what values up to `largest` lost.
    """

    def __init__(self, x, mean, var, weight, bias, eps, dtype, steps=1, largest=0.0):
        x, mean, var = (np.asarray(a, np.float64) for a in (x, mean, var))
        self.x, self.count = x, max(x.size // x.shape[1], 1)
        self.weight = np.abs(np.ones(x.shape[1]) if weight is None else weight.astype(float))
        self.bias = np.zeros(x.shape[1]) if bias is None else np.abs(bias.astype(float))
        self.std = np.sqrt(var + eps)
        here = np.abs(channels_last(x)).max(axis=0, initial=0)
        self.largest = np.maximum(np.maximum(here, np.abs(mean)), largest)
        self.kappa = 1 + self.largest / self.std
        self.x_hat = 1 + np.abs(x - along(mean, x)) / along(self.std, x)
        self.unit = 4 * steps * (self.count + 8) * np.finfo(dtype).eps
        self.quantum = 4 * self.count * quantum(dtype)

    def along(self, values):
        return along(values, self.x)

    def output(self):
        terms = self.along(self.weight) * self.x_hat + self.along(self.bias)
        return self.unit * self.along(self.kappa) * terms + self.quantum

    def grad_input(self, grad):
        grad = np.abs(grad.astype(np.float64))
        terms = grad + self.x_hat * self.along(self._sum(grad * self.x_hat) / self.count)
        scale = self.unit * self.kappa * self.weight / self.std
        return self.along(scale) * terms + self.quantum

    def grad_weight(self, grad):
        return self.unit * self.kappa * self._sum(np.abs(grad) * self.x_hat) + self.quantum

    def grad_bias(self, grad):
        return self.unit * self._sum(np.abs(grad)) + self.quantum

    def running_mean(self):
        return self.unit * self.largest + self.quantum

    def running_var(self, var=None):
        std = self.std if var is None else np.sqrt(var)
        return 2 * self.unit * (std**2 + std * self.largest) + self.quantum

    def _sum(self, values):
        return channels_last(values.astype(np.float64)).sum(axis=0)


class BatchRenormBounds:
    """What rounding may do to the results of batch renorm, to first order.

    The layer is BatchNorm with the scale weight · r and the shift bias + weight · d, whose
    bounds BatchNormBounds has (twice over: steps=2). Both sides lose in r, relatively, what they
    lose in the variance and a few roundings, (n + 8) eps, and in d, absolutely, the n eps M of
    the mean, M = max(|x|, |running mean|), over the running deviation, and 8 eps of |d|. To clip
    makes no error larger. So r brings the terms of the scale in once more, a factor of 2, and d
    brings unit · (M / running std + |d|) times what it is multiplied by.
    """

    def __init__(self, layer, x, r, d):
        count, mean, m2 = exact_statistics(x)
        self.weight = np.ones(len(r)) if layer.weight is None else np.abs(layer.weight.data)
        self.r, self.d = r, np.abs(d)
        shift = self.weight * self.d
        shift = shift if layer.bias is None else shift + np.abs(layer.bias.data)
        largest = np.abs(layer.running_mean.astype(float))
        vectors = mean, m2 / count, self.weight * r, shift
        self.base = BatchNormBounds(x, *vectors, layer.eps, layer.running_var.dtype, 2, largest)
        running_std = np.sqrt(layer.running_var.astype(float) + layer.eps)
        self.d_off = self.base.unit * (self.base.largest / running_std + self.d)

    def output(self):
        return 2 * self.base.output() + self.base.along(self.weight * self.d_off)

    def grad_input(self, grad):
        return 2 * self.base.grad_input(grad)

    def grad_weight(self, grad):
        by_d = self.d * self.base.grad_bias(grad) + self.d_off * channels_last(np.abs(grad)).sum(0)
        return 2 * self.r * self.base.grad_weight(grad) + by_d + self.base.quantum
