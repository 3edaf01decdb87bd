"""What mutation testing found no other test to notice: mostly which road a channel takes."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import roads
import torch
from helpers import (
    along,
    assert_same_bits,
    assert_within,
    batch,
    batch_shapes,
    exact_statistics,
    rngs,
)
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.errors import DataError, ShapeError
from npbn.functional import (
    batch_measure,
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_large,
    batch_norm_small,
    cross_entropy,
    linear,
    measure,
    passes,
)
from npbn.functional.batch_norm_exact import (
    gradients_need_exact,
    in_range,
    ordinary_gradients,
    output_needs_exact,
)
from npbn.functional.tuning import PARTIAL

road = pytest.fixture(roads.taken, scope="module", params=roads.ROADS)

DIGITS = Path(__file__).parents[2] / "examples" / "data" / "mnist-5k"
EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


def assert_contract(x, grad, weight, bias, running, eps=1e-5):
    """Compare float32 passes with float64's, by the bounds that the modules document.

    `running` is (mean, var), or None to normalise by the batch.
    """
    mean, var = running or (None, None)
    y, cache = batch_norm_forward(x, mean, var, weight, bias, running is None, eps)
    gradients = batch_norm_backward(grad, cache)
    count, exact_mean, m2 = exact_statistics(x)
    mean, var = (exact_mean, m2 / count) if running is None else map(np.float64, running)
    axes, std = (0, *range(2, x.ndim)), np.sqrt(var + eps)
    x_hat = (x - along(mean, x)) / along(std, x)
    w, b, scale = along(weight, x), along(bias, x), along(weight / std, x)
    unit = np.maximum(np.maximum(1, np.abs(w * x_hat)), np.abs(b))
    assert_within(y, w * x_hat + b, 8 * EPS32 * unit, "output")

    def terms(sign, g, x_hat):
        """Return the gradients with sign −1, and with +1 the sums of their |terms|."""
        for_weight, for_bias = (g * x_hat).sum(axes), g.sum(axes)
        if running is None:
            g = g + sign * along(for_bias / count, x) + sign * x_hat * along(for_weight / count, x)
        return g * (scale if sign < 0 else np.abs(scale)), for_weight, for_bias

    truth = terms(-1, grad.astype(np.float64), x_hat)
    sums = terms(1, np.abs(grad).astype(np.float64), np.abs(x_hat) + 0.5)
    names = "grad_input", "grad_weight", "grad_bias"
    for name, mine, expected, magnitude in zip(names, gradients, truth, sums, strict=True):
        assert_within(mine, expected, 8 * EPS32 * magnitude, name)


def drawn_arguments(rng, shape, by_batch):
    """Return x, the upstream gradient, weight, bias and the running statistics or None."""
    channels = shape[1]
    mean = rng.normal(0, 3, channels).astype(np.float32)
    x = (rng.normal(size=shape) + along(mean, np.empty(shape))).astype(np.float32)
    grad, (weight, bias) = rng.normal(size=shape), rng.normal(size=(2, channels))
    running = None if by_batch else (mean, rng.uniform(0.5, 2, channels).astype(np.float32))
    return x, *(a.astype(np.float32) for a in (grad, weight, bias)), running


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("by_batch", [True, False])
@given(rng=rngs(), shape=batch_shapes((2, 3)))
def test_large_weights_keep_the_contract_in_outputs_and_gradients(by_batch, rng, shape):
    x, grad, weight, bias, running = drawn_arguments(rng, shape, by_batch)
    weight += np.copysign(np.float32(rng.uniform(5, 100)), weight)
    assert_contract(x, grad, weight, bias, running)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("shape", [(5003, 50), (70, 2000), (999, 3, 70)])
@pytest.mark.slow
def test_arrays_of_several_blocks_keep_the_contract(by_batch, shape):
    assert_contract(*drawn_arguments(np.random.default_rng(0), shape, by_batch))


@pytest.mark.usefixtures("road")
@given(st.integers(0, 10**4), st.integers(1, 10**5), st.sampled_from([np.float32, np.float64]))
def test_blocks_hold_every_row_once_and_are_as_large_as_block_bytes_allows(rows, channels, dtype):
    x = np.broadcast_to(dtype(0), (rows, channels))
    row_numbers = np.broadcast_to(np.arange(rows)[:, None], (rows, channels))
    blocks, limit = passes.sweep(lambda x, n: n[:, 0], (x, row_numbers)), passes.BLOCK_BYTES
    np.testing.assert_array_equal(np.concatenate(blocks), np.arange(rows))
    row_bytes = channels * x.itemsize
    assert all(len(block) * row_bytes <= max(row_bytes, limit) for block in blocks)
    for block in blocks[:-1]:
        assert len(block) % PARTIAL == 0 or len(block) < PARTIAL  # partial sums stay together
        assert (len(block) + PARTIAL) * row_bytes > limit


@given(rngs(), st.integers(1, 10), st.sampled_from([1e3, 1e9, 1e15]))
def test_the_mean_of_float64_values_that_cancel_keeps_its_digits(rng, pairs, large):
    """Of n values up to M: the first mean may be n eps M; what it misses is summed exactly.

    The sums of the deviations and of what those lost, at most eps M each, are rounded once, added
    and divided: 2 eps (|mean| + (n + 1) eps M). Adding that to the first mean loses eps |mean|.
    """
    pair = large * rng.uniform(0.5, 1, pairs)
    x = rng.permuted(np.concatenate([pair, -pair, rng.uniform(1, 2, 3)]))[:, None]
    _, mean, _ = exact_statistics(x)
    bound = EPS64 * (3 * mean + 2 * (len(x) + 1) * EPS64 * large)
    assert_within(measure(x).mean, mean, bound, "mean")


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_defaults_of_the_layers_are_torchs(name):
    ours, theirs = getattr(npbn, name)(3), getattr(torch.nn, name)(3)
    for option in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
        assert getattr(ours, option) == getattr(theirs, option), option
    assert ours.bias is not None


def test_defaults_of_cross_entropy_are_torchs():
    theirs = inspect.signature(torch.nn.functional.cross_entropy).parameters
    for name, parameter in list(inspect.signature(cross_entropy).parameters.items())[2:]:
        assert parameter.default == theirs[name].default, name


@given(st.integers(3, 2**40))
def test_cross_entropy_refuses_any_target_beyond_the_classes(target):
    with pytest.raises(DataError, match=f"from 0 to 2 .*got {target}"):
        cross_entropy(np.zeros((2, 3)), np.array([0, target]))


@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
def test_one_running_statistic_without_the_other_is_refused(missing):
    vectors = {"running_mean": np.zeros(3), "running_var": np.ones(3), missing: None}
    with pytest.raises(ValueError, match="running_mean and running_var go together"):
        batch_norm(np.zeros((2, 3)), **vectors)


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2)])
def test_linear_refuses_a_weight_that_is_no_matrix(shape):
    with pytest.raises(ShapeError, match=r"linear: expected weight of shape \(out_features, in_"):
        linear(np.ones((2, 2)), np.ones(shape))


@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
@pytest.mark.parametrize("rank", range(1, 7))
def test_layers_take_inputs_of_the_ranks_that_torchs_take(name, rank):
    x = np.random.default_rng(0).normal(size=(3,) * rank).astype(np.float32)
    try:
        getattr(torch.nn, name)(3)(torch.from_numpy(x))
    except ValueError:
        with pytest.raises(ShapeError, match=rf"{name}\(3\): expected input of shape"):
            getattr(npbn, name)(3)(x)
    else:
        assert getattr(npbn, name)(3)(x).shape == x.shape


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"affine": False}, {"track_running_stats": False}]
)
def test_resets_make_parameters_and_running_statistics_as_new(options):
    layer, new = npbn.BatchNorm1d(3, **options), npbn.BatchNorm1d(3, **options).state_dict()
    layer.load_state_dict({name: value + 5 for name, value in new.items()})
    layer.reset_running_stats()
    for name, value in layer.state_dict().items():
        kept = name in ("weight", "bias")
        np.testing.assert_array_equal(value, new[name] + 5 if kept else new[name], name)
    layer.reset_parameters()
    for name, value in layer.state_dict().items():
        assert_same_bits(value, new[name], name)


def test_defaults_of_the_functions_are_torchs():
    ours, theirs = (
        {p.name: p.default for p in inspect.signature(f).parameters.values()}
        for f in (batch_norm, torch.nn.functional.batch_norm)
    )
    assert list(ours)[1:] == list(theirs)[1:]  # the first is x here
    assert list(ours.values()) == list(theirs.values())
    forward = inspect.signature(batch_norm_forward).parameters
    assert {name: forward[name].default for name in forward} == {
        name: ours[name] for name in ours if name != "momentum"
    }


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("scale", [1e-22, 1e-16, 1, 1e16, 1e25])
@given(rng=rngs(), shape=batch_shapes((2, 3)))
def test_float32_batch_statistics_keep_the_contract_at_any_scale(scale, rng, shape):
    """Below 1e-19 and above 1e19 float32 cannot square; the statistics are float64."""
    channels = np.ones(shape[1])
    x = batch(rng, shape, np.float32, (channels, scale * channels))
    count, mean, m2 = exact_statistics(x)
    statistics = batch_norm_forward(x, None, None, training=True)[1].statistics
    assert type(statistics.count) is int
    assert statistics.count == count
    bound = 2 * EPS32 * np.maximum(np.abs(mean), np.sqrt(m2 / count))
    assert_within(statistics.mean, mean, bound, "mean")
    assert_within(statistics.m2, m2, 4 * EPS32 * m2, "m2")


@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("shape", [(2, 8), (100, 8), (1000, 8), (40, 8, 5), (300, 8, 3)])
def test_ordinary_channels_take_the_fast_road_alone_and_beside_those_that_cannot(
    road, by_batch, shape
):
    """A rough mean of 64 rows misses by std / 2, the limit, once in 10⁴ channels: not here."""
    if road == "small":
        pytest.skip("small batches are exact as a whole")
    x, *_, running = drawn_arguments(np.random.default_rng(0), shape, by_batch)
    x[:, 1] *= 0.01
    x[:, 2] = 0 if by_batch else x[:, 2]
    extreme = np.zeros(8, bool)
    extreme[[4, 6]] = True
    x[:, 4], x[0, 6] = x[:, 4] * 1e32, np.nan if by_batch else 1
    if running is not None:
        running[0][4], running[1][6] = 1e32, np.nan
    mean, var = running or (None, None)
    for channels in (slice(None), *([channel] for channel in range(8))):
        vectors = (None if v is None else v[channels] for v in (mean, var))
        cache = batch_norm_forward(x[:, channels], *vectors, training=by_batch)[1]
        np.testing.assert_array_equal(cache.exact, extreme[channels])


EXTREMES = [0.0, 1e-29, 1e-31, 1e29, 1e31, np.inf, np.nan]


@pytest.mark.parametrize("name", ["a", "moved", "std", "shift"])
@given(value=st.sampled_from([*EXTREMES, 4.9, 5.1]), sign=st.booleans())
def test_the_channels_whose_output_is_flagged_are_those_documented(name, value, sign):
    vectors = {"a": np.ones(2), "moved": np.ones(2), "std": np.ones(2), "shift": np.ones(2)}
    vectors[name][0] = value if sign or name == "std" else -value
    flagged = not value <= (5 if name == "moved" else 1e30)
    np.testing.assert_array_equal(output_needs_exact(**vectors), [flagged, False])
    if in_range(vectors["a"], vectors["std"]):  # the quick answer: a no too many, never a yes
        assert not flagged or name in ("moved", "shift")
    else:
        assert flagged or value >= 1e14


@pytest.mark.parametrize("name", ["a", "b", "c", "missed"])
@given(value=st.sampled_from([*EXTREMES, 0.49, 0.51]), sign=st.booleans())
def test_gradients_leave_the_fast_road_only_where_a_factor_leaves_float32(name, value, sign):
    factors, missed = np.ones((3, 2)), np.zeros(2)
    changed = missed if name == "missed" else factors["abc".index(name)]
    changed[0] = value if sign else -value
    too_small = value == 1e-31 and name != "missed"
    too_large = not value <= (0.5 if name == "missed" else 1e30)
    np.testing.assert_array_equal(
        gradients_need_exact(factors, missed), [too_small or too_large, False]
    )
    if ordinary_gradients(factors, missed):
        assert not too_small
        assert not too_large
    else:
        assert too_small or too_large or value >= 1e14


@given(data=st.data())
def test_channels_centred_alone_are_what_they_are_when_all_are_centred(road, data):
    rng, shape = data.draw(rngs()), data.draw(batch_shapes((2, 3)))
    few = rng.random(shape[1]) < 0.5
    mean = np.where(few, 1e3, 0.1).astype(np.float32)
    var = rng.choice([0, 1], shape[1]).astype(np.float32)
    x = (along(mean, np.empty(shape)) + rng.normal(size=shape)).astype(np.float32)
    weight, bias = rng.normal(size=(2, shape[1])).astype(np.float32)
    ys = {}
    for name, one_in in (("alone", 1), ("all", 10**9)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch_norm_small, "SMALL", 0)
            patch.setattr(batch_norm_large, "FEW", one_in)
            ys[name] = batch_norm_forward(x, mean, var, weight, bias, False)[0]
    # Where the weight is small a large mean needs no centring; rounding decides near the limit, 5.
    needed = (np.abs(mean * weight / np.sqrt(var + 1e-5)) > 5.01) | (var == 0)
    assert_same_bits(ys["alone"][:, needed], ys["all"][:, needed])
    at_the_mean = np.broadcast_to(along(mean, x), shape).copy()
    y = batch_norm_forward(at_the_mean, mean, var, weight, bias, False)[0]
    assert_same_bits(y[:, var == 0], np.broadcast_to(along(bias, x), shape)[:, var == 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_unlike_its_sample_is_measured_once_more_and_not_by_the_exact_road(dtype):
    """The sample is every second row here: its mean is 0, the batch's 50, and std / 1 away."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 5)).astype(dtype)
    x[1::2] += 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_measure, "WIDE_BYTES", 0)
        statistics, shift, offset, doubtful = batch_measure.measure_batch(x, None, np.empty_like(x))
    _, mean, m2 = exact_statistics(x)
    eps = np.finfo(dtype).eps
    assert not doubtful.any()
    assert_within(statistics.mean, mean, 2 * eps * np.maximum(mean, 50), "mean")
    assert_within(statistics.m2, m2, 4 * eps * m2, "m2")
    assert_within(shift + offset, mean, 2 * eps * np.maximum(mean, 50), "shift + offset")


def test_no_channel_of_real_images_takes_the_exact_road():
    """Digits are black at their borders and bright in the middle: few pixels speak for all."""
    digits = npbn.data.MNIST(DIGITS, flatten=False).images[:64, None]
    for seed in range(3):
        conv = npbn.Conv2d(1, 16, 3, padding=1, bias=False, rng=np.random.default_rng(seed))
        x = conv.predict(digits)
        *_, doubtful = batch_measure.measure_batch(x, None, np.empty_like(x))
        assert not doubtful.any()
