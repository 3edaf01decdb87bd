"""GhostBatchNorm against torch's BatchNorm, run over the ghosts in turn, and its manners."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import (
    BatchNormBounds,
    array,
    assert_same_bits,
    assert_within,
    batch,
    channel_scales,
    channels_last,
    exact_statistics,
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

KINDS = {
    npbn.GhostBatchNorm1d: (npbn.BatchNorm1d, torch.nn.BatchNorm1d),
    npbn.GhostBatchNorm2d: (npbn.BatchNorm2d, torch.nn.BatchNorm2d),
}
FORMS = [(npbn.GhostBatchNorm1d, 0), (npbn.GhostBatchNorm1d, 1), (npbn.GhostBatchNorm2d, 2)]
forms = pytest.mark.parametrize(("kind", "axes"), FORMS, ids=["(N, C)", "(N, C, L)", "images"])
dtypes = st.sampled_from(["float32", "float64"])
BUFFERS = "running_mean", "running_var", "num_batches_tracked"


@st.composite
def options(draw):
    return {
        "eps": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        "momentum": draw(st.sampled_from([None, 0.0, 0.1, 0.7, 1.0])),
        "affine": draw(st.booleans()),
        "track_running_stats": draw(st.sampled_from([True, True, False])),
        "bias": draw(st.booleans()),
    }


def fill(layer, rng):
    """Draw parameters and statistics; return the layer."""
    for parameter in layer.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    if layer.track_running_stats:
        layer.running_mean[...] = rng.normal(size=layer.num_features)
        layer.running_var[...] = rng.uniform(0.5, 2, layer.num_features)
        layer.num_batches_tracked[...] = rng.integers(0, 5)
    return layer


def torch_layer(layer):
    """Return torch's BatchNorm in float64 with the options and the state of `layer`."""
    kind = KINDS[type(layer)][1]
    arguments = layer.num_features, layer.eps, layer.momentum, layer.affine
    theirs = kind(*arguments, layer.track_running_stats, dtype=torch.float64)
    if layer.bias is None:
        theirs.bias = None  # older releases have no keyword for it
    theirs.load_state_dict({key: torch.from_numpy(a) for key, a in layer.state_dict().items()})
    return theirs


def ghost_sizes(samples, ghost_size):
    """Return the sizes as the documentation has them: N // ghost_size ghosts, or one."""
    ghosts = max(1, samples // ghost_size)
    sizes = [samples // ghosts + (i < samples % ghosts) for i in range(ghosts)]
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1
    assert samples < ghost_size or min(sizes) >= ghost_size
    return sizes


def parts(x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1])


def values(parameter):
    return None if parameter is None else parameter.data


@forms
@given(data=st.data(), rng=rngs(), dtype=dtypes, options=options())
def test_training_is_torchs_batch_norm_over_the_ghosts_in_turn(
    kind, axes, data, rng, dtype, options
):
    """The bounds are those of the ghosts, which are batches: each may lose what BatchNormBounds
    says, at the step that it is, twice over. The gradients of weight and bias are sums over k
    ghosts and lose k eps of Σ|terms| more, less than half of what "twice over" leaves them,
    4 (n + 8) eps, as there are k <= 14 ghosts."""
    positions = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    least = 2 if np.prod(positions) == 1 else 1
    ghost_size = data.draw(st.integers(least, 5))
    layer = fill(kind(data.draw(st.integers(1, 4)), ghost_size, **options, dtype=dtype), rng)
    theirs, scales = torch_layer(layer), channel_scales(rng, layer.num_features, dtype)
    trained = np.abs(layer.running_mean) if layer.track_running_stats else 0.0
    weight_bound = bias_bound = steps = 0
    for samples in data.draw(st.lists(st.integers(least, 14), min_size=1, max_size=3)):
        shape = (samples, layer.num_features, *positions)
        x, grad = batch(rng, shape, dtype, scales), rng.normal(size=shape).astype(dtype)
        sizes = ghost_sizes(samples, ghost_size)
        leaf = tensor(x, "float64", requires_grad=True)
        its_y = torch.cat([theirs(part) for part in torch.split(leaf, sizes)])
        its_y.backward(tensor(grad, "float64"))
        y, grad_input = layer(x), layer.backward(grad)
        assert y.dtype == grad_input.dtype == dtype
        expected = parts(array(its_y), sizes), parts(array(leaf.grad), sizes)
        found = parts(y, sizes), parts(grad_input, sizes)
        for i, (ghost, g) in enumerate(zip(parts(x, sizes), parts(grad, sizes), strict=True)):
            steps += 1
            trained = np.maximum(trained, np.abs(channels_last(ghost)).max(axis=0))
            count, mean, m2 = exact_statistics(ghost)
            vectors = mean, m2 / count, values(layer.weight), values(layer.bias)
            bounds = BatchNormBounds(ghost, *vectors, layer.eps, dtype, 2 * steps, trained)
            assert_within(found[0][i], expected[0][i], bounds.output(), f"output of ghost {i}")
            what = f"grad_input of ghost {i}"
            assert_within(found[1][i], expected[1][i], bounds.grad_input(g), what)
            weight_bound += bounds.grad_weight(g)
            bias_bound += bounds.grad_bias(g)
        for name, bound in (("weight", weight_bound), ("bias", bias_bound)):
            mine, its = getattr(layer, name), getattr(theirs, name)
            if mine is not None:
                assert mine.grad.dtype == dtype
                assert_within(mine.grad, array(its.grad), bound, f"{name}.grad")
        if layer.track_running_stats:
            mean, var, batches = (array(getattr(theirs, name)) for name in BUFFERS)
            assert_within(layer.running_mean, mean, bounds.running_mean(), "running_mean")
            assert_within(layer.running_var, var, bounds.running_var(var), "running_var")
            assert_same_bits(layer.num_batches_tracked, batches)
        else:
            assert [getattr(layer, name) for name in BUFFERS] == [None] * 3


@forms
@given(data=st.data(), rng=rngs(), dtype=dtypes, options=options(), training=st.booleans())
def test_one_ghost_and_evaluation_are_batch_norm_to_the_bit(
    kind, axes, data, rng, dtype, options, training
):
    """One ghost is the batch while there are not samples for two."""
    ghost_size = data.draw(st.integers(2, 6) if training else st.integers(1, 3))
    samples = data.draw(st.integers(2, 2 * ghost_size - 1 if training else 9))
    layer = fill(kind(3, ghost_size, **options, dtype=dtype), rng)
    twin = KINDS[kind][0](3, **options, dtype=dtype)
    assert twin.load_state_dict(layer.state_dict()) == ([], [])
    assert layer.load_state_dict(torch_layer(layer).state_dict()) == ([], [])
    layer.train(training), twin.train(training)
    for _ in range(2):
        x = batch(rng, (samples, 3, *(2,) * axes), dtype)
        assert_same_pass(layer, twin, x, rng.normal(size=x.shape).astype(dtype))
        assert_same_bits(layer.predict(x), twin.predict(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ghosts_of_large_batches_are_batches(dtype):
    """Beyond 8,192 numbers a ghost; the sums of the ghosts' gradients are rounded once more."""
    rng = np.random.default_rng(0)
    layer = fill(npbn.GhostBatchNorm1d(3, 3000, dtype=dtype), rng)
    twin = npbn.BatchNorm1d(3, dtype=dtype)
    twin.load_state_dict(layer.state_dict())
    x, grad = batch(rng, (6001, 3), dtype), rng.normal(size=(6001, 3)).astype(dtype)
    y, grad_input = layer(x), layer.backward(grad)
    terms = 0
    for part in (slice(3001), slice(3001, None)):
        assert_same_bits(y[part], twin(x[part]))
        assert_same_bits(grad_input[part], twin.backward(grad[part]))
        terms = terms + np.abs(twin.weight.grad)
    for key, value in twin.state_dict().items():
        assert_same_bits(layer.state_dict()[key], value, key)
    eps = np.finfo(dtype).eps
    assert_within(layer.weight.grad, twin.weight.grad, eps * terms)
    assert_within(layer.bias.grad, twin.bias.grad, eps * np.abs(twin.bias.grad))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (5, 3, 0)])
def test_an_empty_batch_counts_its_ghosts_and_changes_no_statistic(shape):
    layer = fill(npbn.GhostBatchNorm1d(3, 2), np.random.default_rng(0))
    before = layer.state_dict()
    y = layer(np.zeros(shape, np.float32))
    assert y.shape == layer.backward(y).shape == shape
    assert layer.num_batches_tracked == before["num_batches_tracked"] + max(1, shape[0] // 2)
    for name in BUFFERS[:2]:
        assert_same_bits(getattr(layer, name), before[name])
    for parameter in layer.parameters():
        np.testing.assert_array_equal(parameter.grad, np.zeros(3, np.float32))


def test_float16_input_with_float32_parameters_is_normalised_by_ghosts():
    """Against the same in float32: the results are rounded to float16."""
    layer = fill(npbn.GhostBatchNorm1d(3, 2), np.random.default_rng(0))
    twin = copy.deepcopy(layer)
    x, grad = draw(0, (5, 3), "f2"), draw(1, (5, 3), "f2")
    assert_same_bits(layer(x), twin(x.astype("f4")).astype("f2"))
    assert_same_bits(layer.backward(grad), twin.backward(grad.astype("f4")).astype("f2"))
    assert_same_bits(layer.weight.grad, twin.weight.grad)
    assert_same_bits(layer.running_var, twin.running_var)


def test_gradients_beyond_the_range_are_not_finite_and_no_warning():
    layer = npbn.GhostBatchNorm1d(3, 2)
    with np.errstate(all="raise"):
        for signs, value in (([1, 1, 1, 1], 2e38), ([1, 1, -1, -1], np.inf)):
            layer.zero_grad()
            layer(draw(0, (4, 3), "f4"))
            layer.backward(np.outer(np.float32(signs), np.full(3, value, "f4")))
            assert not np.isfinite(layer.bias.grad).any()


def test_repr_copies_and_pickles_keep_the_ghost_size():
    layer = fill(npbn.GhostBatchNorm2d(3, 2, eps=0.1, bias=False), np.random.default_rng(0))
    x = draw(0, (5, 3, 2, 2), "f4")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin).startswith("GhostBatchNorm2d(3, ghost_size=2, eps=0.1, momentum=0.1, ")
        assert_same_pass(twin, copy.deepcopy(layer), x, draw(1, x.shape, "f4"))


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error", "fragments"),
    [
        (np.ones((4, 3), "f4"), BatchSizeError, ["more than 1 value", "(1, 3)", "ghost_size"]),
        (np.ones((4, 3, 1), "f4"), BatchSizeError, ["(1, 3, 1)", "ghost_size than 1"]),
        (np.ones((1, 3), "f4"), BatchSizeError, ["more than 1 value", "(1, 3)", "drop_last"]),
        (np.ones((4, 2, 2), "f4"), ShapeError, ["3 channels", "(4, 2, 2)"]),
        (np.ones((4, 3, 2, 2), "f4"), ShapeError, ["(N, 3) or (N, 3, L)"]),
        (np.ones((4, 3, 2)), DtypeError, ["float64", "float32"]),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_changed(bad, error, fragments):
    layer = fill(npbn.GhostBatchNorm1d(3, 1), np.random.default_rng(0))
    good = draw(1, (4, 3, 2), "f4")
    assert_refused(layer, good, bad, error, ["GhostBatchNorm1d(3)", *fragments])


def test_ghosts_of_one_value_are_refused_for_a_single_channel_too():
    with pytest.raises(BatchSizeError, match="more than 1 value"):
        npbn.GhostBatchNorm1d(1, 1)(np.ones((4, 1), "f4"))


def test_interrupted_between_ghosts_it_has_tracked_none(monkeypatch):
    layer, calls = npbn.GhostBatchNorm1d(2, 2), []
    write = npbn.BatchNorm1d._write

    def interrupted(*arguments):
        write(*arguments)
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(npbn.GhostBatchNorm1d, "_write", interrupted)
    before = snapshot(layer)
    with pytest.raises(KeyboardInterrupt):
        layer(draw(0, (8, 2), "f4"))
    assert_unchanged(layer, before)


def test_without_memory_for_the_output_it_has_tracked_none(monkeypatch):
    def lacking(_):
        raise MemoryError

    layer = npbn.GhostBatchNorm1d(2, 2)
    before = snapshot(layer)
    with monkeypatch.context() as patch:
        patch.setattr(np, "concatenate", lacking)
        with pytest.raises(MemoryError):
            layer(draw(0, (8, 2), "f4"))
    assert_unchanged(layer, before)


def test_a_remainder_makes_no_ghost_of_its_own():
    """Seven samples are ghosts of three and four, none of them of one."""
    layer, x = npbn.GhostBatchNorm1d(3, 3, momentum=None, dtype=np.float64), draw(0, (7, 3))
    layer(x)
    assert layer.num_batches_tracked == 2
    expected = (x[:4].mean(axis=0) + x[4:].mean(axis=0)) / 2
    assert_within(layer.running_mean, expected, 10 * np.finfo(float).eps * np.abs(x).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ghost_size", [0, -1])
def test_a_ghost_size_below_one_is_refused(kind, ghost_size):
    with pytest.raises(
        ValueError,
        match=f"{kind.__name__}: .*ghost_size .* at least 1, got {ghost_size}",
    ):
        kind(3, ghost_size)


def test_evaluation_takes_what_training_would_split_into_single_values():
    layer, x = npbn.GhostBatchNorm1d(3, 1), draw(0, (4, 3), "f4")
    before = snapshot(layer)
    assert_same_bits(layer.predict(x), npbn.BatchNorm1d(3).predict(x))
    assert_unchanged(layer, before)


# -- contract -------------------------------------------------------------------------------------


class TestContract(LayerContract):
    kind, shape, options = npbn.GhostBatchNorm1d, (5, 3), {}

    def make(self):
        layer = self.kind(self.shape[1], 2, **self.options, dtype=np.float64)
        for seed, parameter in enumerate(layer.parameters()):
            parameter.data[...] = draw(seed, self.shape[1])
        return layer


class TestContractWithPositions(TestContract):
    shape = (4, 3, 2)


class TestContractOfImages(TestContract):
    kind, shape = npbn.GhostBatchNorm2d, (5, 3, 2, 2)


class TestContractWithoutBias(TestContract):
    options = {"bias": False, "momentum": None}  # noqa: RUF012


class TestContractWithoutParametersAndRunningStatistics(TestContract):
    options = {"affine": False, "track_running_stats": False}  # noqa: RUF012
