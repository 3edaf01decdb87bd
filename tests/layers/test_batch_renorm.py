"""BatchRenorm against a textbook in torch's float64 and against BatchNorm, and its manners."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import (
    BatchNormBounds,
    BatchRenormBounds,
    array,
    assert_same_bits,
    assert_within,
    batch,
    channels_last,
    rngs,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import (
    LayerContract,
    assert_refused,
    assert_same_pass,
    assert_unchanged,
    draw,
    snapshot,
)

import npbn
from npbn.errors import BatchSizeError, DtypeError, ShapeError
from npbn.layers import batch_renorm

pytestmark = pytest.mark.usefixtures("engine")
KINDS = {
    npbn.BatchRenorm1d: (npbn.BatchNorm1d, torch.nn.BatchNorm1d),
    npbn.BatchRenorm2d: (npbn.BatchNorm2d, torch.nn.BatchNorm2d),
}
FORMS = [(npbn.BatchRenorm1d, 0), (npbn.BatchRenorm1d, 1), (npbn.BatchRenorm2d, 2)]
forms = pytest.mark.parametrize(("kind", "axes"), FORMS, ids=["(N, C)", "(N, C, L)", "images"])
dtypes = st.sampled_from(["float32", "float64"])


@st.composite
def options(draw):
    return {
        "eps": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        "momentum": draw(st.sampled_from([None, 0.0, 0.1, 0.7, 1.0])),
        "affine": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }


def fill(layer, rng, x):
    """Draw parameters, and statistics such that r and d of the batch x are near 1 and 0, or not."""
    for parameter in layer.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    rows = channels_last(x.astype(np.float64))
    std, spread = rows.std(axis=0), rng.choice([0.1, 1, 10], layer.num_features)
    layer.running_mean[...] = rows.mean(axis=0) + std * spread * rng.normal(size=len(std))
    layer.running_var[...] = rows.var(axis=0) * np.exp(spread * rng.uniform(-0.5, 0.5, len(std)))
    layer.num_batches_tracked[...] = rng.integers(0, 5)
    return layer


def textbook(x, weight, bias, mean, var, layer):
    """Return the output and the new statistics: Ioffe 2017, algorithm 1, with torch's average.

    All arguments but the last are tensors of float64. r and d are detached: constants.
    """
    axes = (0, *range(2, x.ndim))
    view = (1, -1, *(1,) * (x.ndim - 2))
    batch_mean, batch_var = x.mean(axes), x.var(axes, correction=0)
    std, running_std = torch.sqrt(batch_var + layer.eps), torch.sqrt(var + layer.eps)
    r = (std / running_std).detach().clamp(1 / layer.r_max, layer.r_max)
    d = ((batch_mean - mean) / running_std).detach().clamp(-layer.d_max, layer.d_max)
    y = (x - batch_mean.view(view)) / std.view(view) * r.view(view) + d.view(view)
    y = y if weight is None else y * weight.view(view)
    y = y if bias is None else y + bias.view(view)
    m = layer.momentum
    m = 1 / (int(layer.num_batches_tracked) + 1) if m is None else m
    mean = (1 - m) * mean + m * batch_mean.detach()
    var = (1 - m) * var + m * x.detach().var(axes)
    return y, *map(array, (mean, var, r, d))


@forms
@given(
    data=st.data(),
    rng=rngs(),
    dtype=dtypes,
    options=options(),
    r_max=st.sampled_from([1, 1.2, 3.0, np.inf]),
    d_max=st.sampled_from([0, 0.3, 5.0, np.inf]),
)
def test_every_step_is_the_textbooks(kind, axes, data, rng, dtype, options, r_max, d_max):
    positions = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    layer = kind(data.draw(st.integers(1, 4)), r_max, d_max, **options, dtype=dtype)
    shape = (data.draw(st.integers(2, 12)), layer.num_features, *positions)
    fill(layer, rng, first := batch(rng, shape, dtype))
    for x in (first, batch(rng, shape, dtype)):
        grad = rng.normal(size=shape).astype(dtype)
        layer.zero_grad()
        leaves = [tensor(x, "float64", requires_grad=True)]
        for parameter in (layer.weight, layer.bias):
            values = None if parameter is None else parameter.data
            leaves.append(None if values is None else tensor(values, "float64", True))
        running = [tensor(a, "float64") for a in (layer.running_mean, layer.running_var)]
        its_y, mean, var, r, d = textbook(*leaves, *running, layer)
        its_y.backward(tensor(grad, "float64"))
        bounds, batches = BatchRenormBounds(layer, x, r, d), int(layer.num_batches_tracked)

        y, grad_input = layer(x), layer.backward(grad)
        assert y.dtype == grad_input.dtype == dtype
        assert_within(y, array(its_y), bounds.output(), "output")
        assert_within(grad_input, array(leaves[0].grad), bounds.grad_input(grad), "grad_input")
        of_parameters = bounds.grad_weight(grad), bounds.base.grad_bias(grad)
        for name, leaf, bound in zip(["weight", "bias"], leaves[1:], of_parameters, strict=True):
            if leaf is not None:
                mine = getattr(layer, name).grad
                assert mine.dtype == dtype
                assert_within(mine, array(leaf.grad), bound, f"{name}.grad")
        assert_within(layer.running_mean, mean, bounds.base.running_mean(), "running_mean")
        assert_within(layer.running_var, var, bounds.base.running_var(var), "running_var")
        assert layer.num_batches_tracked == batches + 1
        assert layer.running_mean.dtype == layer.running_var.dtype == dtype


@forms
@given(rng=rngs(), dtype=dtypes, options=options(), samples=st.integers(2, 12))
def test_within_the_limits_training_computes_what_evaluation_does(
    kind, axes, rng, dtype, options, samples
):
    """The bound is training's and, of another BatchNorm, evaluation's."""
    x = batch(rng, (samples, 3, *(2,) * axes), dtype)
    layer = fill(kind(3, np.inf, np.inf, **options, dtype=dtype), rng, x)
    rows = channels_last(x.astype(float))
    running_std = np.sqrt(layer.running_var.astype(float) + layer.eps)
    r = np.sqrt(rows.var(axis=0) + layer.eps) / running_std
    d = (rows.mean(axis=0) - layer.running_mean) / running_std
    weight, bias = (None if p is None else p.data for p in (layer.weight, layer.bias))
    statistics = layer.running_mean, layer.running_var
    evaluation = BatchNormBounds(x, *statistics, weight, bias, layer.eps, dtype)
    bound, expected = (
        BatchRenormBounds(layer, x, r, d).output() + evaluation.output(),
        layer.predict(x),
    )
    assert_within(layer(x), expected, bound)


def test_means_a_million_deviations_from_zero_cost_d_no_digits():
    """8 eps in float64 too, where one number has not the digits of the mean.

    x − 10⁶ and running mean − 10⁶ are exact, and 1e-30 is nothing beside the variances.
    """
    i = np.arange(60.0)[:, None] ** 2 / 1024
    layer = npbn.BatchRenorm1d(1, 3.0, 5.0, eps=1e-30, dtype=np.float64)
    layer.running_mean[...], layer.running_var[...] = 1e6 + 1 / 3, 1 / 4
    moved, scale = layer.running_mean - 1e6, 1 / np.sqrt(layer.running_var)
    terms = scale * np.maximum(np.abs(i - i.mean()), np.abs(i.mean() - moved))
    bound = 8 * np.finfo(float).eps * np.maximum(1, terms)
    assert_within(layer(1e6 + i), (i - moved) * scale, bound)


@forms
@given(rng=rngs(), dtype=dtypes, options=options(), samples=st.integers(2, 12), data=st.data())
def test_without_correction_and_in_evaluation_it_is_batch_norm_to_the_bit(
    kind, axes, rng, dtype, options, samples, data
):
    training = data.draw(st.booleans())
    limits = (1, 0) if training else (3.0, 5.0)
    x = batch(rng, (samples, 3, *(2,) * axes), dtype)
    layer = fill(kind(3, *limits, **options, dtype=dtype), rng, x).train(training)
    for parameter in layer.parameters():
        parameter.data *= rng.choice([0.01, 1, 100])
    twin = KINDS[kind][0](3, **options, dtype=dtype).train(training)
    assert twin.load_state_dict(layer.state_dict()) == ([], [])
    its = KINDS[kind][1](3, affine=options["affine"], dtype=getattr(torch, dtype))
    its.bias = None if layer.bias is None else its.bias
    its.load_state_dict({key: torch.from_numpy(a) for key, a in layer.state_dict().items()})
    assert layer.load_state_dict(its.state_dict()) == ([], [])
    for _ in range(2):
        assert_same_pass(layer, twin, x, rng.normal(size=x.shape).astype(dtype))
        assert_same_bits(layer.predict(x), twin.predict(x))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3000, 3), (100, 3, 10, 10), (0, 3), (2, 3)])
def test_without_correction_large_and_empty_batches_are_batch_norms_to_the_bit(dtype, shape):
    rng, suffix = np.random.default_rng(0), "2d" if len(shape) == 4 else "1d"
    stored = "float32" if dtype == "float16" else dtype
    twin = getattr(npbn, f"BatchNorm{suffix}")(3, dtype=stored)
    layer = getattr(npbn, f"BatchRenorm{suffix}")(3, 1, 0, dtype=stored)
    for parameter, its in zip(layer.parameters(), twin.parameters(), strict=True):
        parameter.data[...] = its.data[...] = [-0.3, 2, 50]
    x = (rng.normal(size=shape) + np.arange(3).reshape(3, *(1,) * (len(shape) - 2))).astype(dtype)
    assert_same_pass(layer, twin, x, rng.normal(size=shape).astype(dtype))


def test_the_limits_may_be_changed_between_two_steps():
    layer, x = npbn.BatchRenorm1d(3, 1, 0, dtype=np.float64), draw(0, (5, 3))
    by_batch = npbn.BatchNorm1d(3, dtype=np.float64)
    assert_same_pass(layer, by_batch, x, draw(1, (5, 3)))
    layer.r_max, layer.d_max = 100.0, 100.0
    assert_within(expected := layer.predict(x), layer(x), 1e-13 * np.abs(expected).max())
    layer.r_max = layer.d_max = 1
    by_batch.load_state_dict(layer.state_dict())
    assert (np.abs(layer(x) - by_batch(x)) <= 1 + 1e-13).all()


JUST_BELOW_1, JUST_BELOW_0 = np.nextafter(1, 0), -5e-324


def test_without_memory_for_its_cache_it_has_tracked_nothing(monkeypatch):
    def lacking(*_):
        raise MemoryError

    layer = npbn.BatchRenorm1d(2, 3.0, 5.0)
    before = snapshot(layer)
    monkeypatch.setattr(batch_renorm, "BatchRenormCache", lacking)
    with pytest.raises(MemoryError):
        layer(draw(0, (8, 2), "f4"))
    assert_unchanged(layer, before)


@pytest.mark.parametrize("r_max", [1, np.nextafter(1, 2), 2.0, np.inf])
@pytest.mark.parametrize("d_max", [0, 5e-324, 0.5, np.inf])
def test_r_and_d_go_up_to_their_limits_and_no_further(r_max, d_max):
    """The batch's deviation is 100 and 1/100 of the running one, its mean ±100 deviations off."""
    x = np.repeat([[-1.0], [1.0]], 4, axis=1)
    layer = npbn.BatchRenorm1d(4, r_max, d_max, eps=1e-300, dtype=np.float64)
    layer.running_var[...] = [1e-4, 1e4, 1e-4, 1e-4]
    layer.running_mean[...] = [0, 0, 1, -1]
    wanted_r, wanted_d = np.array([100, 0.01, 100, 100]), np.array([0, 0, -100.0, 100])
    r, d = np.clip(wanted_r, 1 / r_max, r_max), np.clip(wanted_d, -d_max, d_max)
    assert_within(layer(x), x * r + d, 1e-13 * (r + np.abs(d)))


@pytest.mark.parametrize(
    ("r_max", "d_max"),
    [(JUST_BELOW_1, 1), (0.9, 1), (np.nan, 1), (2, JUST_BELOW_0), (2, -0.1), (2, np.nan)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_limits_out_of_range_are_refused_and_nothing_is_changed(kind, r_max, d_max):
    message = f"{kind.__name__}: expected r_max >= 1 and d_max >= 0, got r_max={r_max}"
    with pytest.raises(ValueError, match=message):
        kind(3, r_max, d_max)
    layer, shape = kind(3, 3.0, 5.0), (4, 3) if kind is npbn.BatchRenorm1d else (4, 3, 2, 2)
    x = draw(0, shape, "f4")
    layer(x), layer.backward(x), layer(x)
    twin, before = copy.deepcopy(layer), snapshot(layer)
    layer.r_max, layer.d_max = r_max, d_max
    with pytest.raises(ValueError, match=message):
        layer(x)
    assert_unchanged(layer, before)
    assert layer.backward(x).shape == shape  # the earlier forward still waits
    assert_same_bits(layer.predict(x), twin.predict(x))


@pytest.mark.parametrize(
    ("bad", "error", "fragments"),
    [
        (np.ones((1, 3), "f4"), BatchSizeError, ["more than 1 value per channel", "(1, 3)"]),
        (np.ones((4, 2), "f4"), ShapeError, ["3 channels", "(4, 2)"]),
        (np.ones((4, 3, 2, 2), "f4"), ShapeError, ["(N, 3) or (N, 3, L)"]),
        (np.ones((4, 3)), DtypeError, ["float64", "float32"]),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_changed(bad, error, fragments):
    layer = npbn.BatchRenorm1d(3, 3.0, 5.0)
    assert_refused(layer, draw(1, (4, 3), "f4"), bad, error, ["BatchRenorm1d(3)", *fragments])


@pytest.mark.parametrize("weight", [1e308, 3e-308])
def test_products_that_leave_the_range_warn_of_nothing(weight):
    layer = npbn.BatchRenorm1d(3, 3.0, 5.0, dtype=np.float64)
    layer.weight.data[...] = weight
    with np.errstate(all="raise"):
        for scale in (0.01, 100):
            layer.backward(layer(scale * draw(0, (5, 3))))


def test_repr_copies_and_pickles_keep_the_limits():
    layer = npbn.BatchRenorm2d(3, 3.0, 5.0, momentum=None, dtype=np.float64)
    expected = (
        "BatchRenorm2d(3, r_max=3.0, d_max=5.0, eps=1e-05, momentum=None, affine=True, bias=True)"
    )
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == expected
        x = draw(0, (2, 3, 2, 2))
        assert_same_pass(twin, copy.deepcopy(layer), x, x)


# -- contract -------------------------------------------------------------------------------------


class TestContract(LayerContract):
    kind, shape, options = npbn.BatchRenorm1d, (5, 3), {}

    def make(self):
        layer = self.kind(self.shape[1], 1.5, 0.2, **self.options, dtype=np.float64)
        for seed, parameter in enumerate(layer.parameters()):
            parameter.data[...] = draw(seed, self.shape[1])
        return layer


class TestContractOfImages(TestContract):
    kind, shape = npbn.BatchRenorm2d, (5, 3, 2, 2)


class TestContractWithoutBias(TestContract):
    shape, options = (4, 3, 2), {"bias": False, "momentum": None}


class TestContractWithoutParameters(TestContract):
    options = {"affine": False}  # noqa: RUF012


def test_without_a_correction_it_recovers_from_nan_as_batch_norm_does():
    layers = npbn.BatchNorm1d(2), npbn.BatchRenorm1d(2, 1.0, 0.0)
    x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    for layer in layers:
        layer(np.full_like(x, np.nan))
    outputs = [layer(x) for layer in layers]
    assert np.isfinite(outputs[0]).all()
    assert np.array_equal(*outputs)
