"""The layer BatchNorm1d against torch's over many steps, and its manners."""

import copy
import inspect

import numpy as np
import pytest
import torch
from helpers import (
    array,
    assert_same_bits,
    assert_within,
    batch_shapes,
    rngs,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import LayerContract, assert_refused, assert_unchanged, draw, snapshot

import npbn
from npbn.errors import BatchSizeError, DtypeError, ShapeError

BUFFERS = "running_mean", "running_var", "num_batches_tracked"


def torch_layer(layer, dtype):
    """Return torch's layer with the options, parameters, statistics and mode of `layer`."""
    theirs = torch.nn.BatchNorm1d(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        dtype=getattr(torch, dtype),
    )
    if layer.bias is None:
        theirs.bias = None  # older releases have no keyword for it
    theirs.load_state_dict({key: torch.from_numpy(a) for key, a in layer.state_dict().items()})
    return theirs.train(layer.training)


@st.composite
def layers(draw, dtype="float64"):
    """Draw a layer of any options, with drawn parameters."""
    rng, channels = draw(rngs()), draw(st.integers(1, 4))
    layer = npbn.BatchNorm1d(
        channels,
        eps=draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        momentum=draw(st.sampled_from([None, 0.0, 0.1, 0.7, 1.0])),
        affine=draw(st.booleans()),
        track_running_stats=draw(st.sampled_from([True, True, False])),
        bias=draw(st.booleans()),
        dtype=dtype,
    )
    for parameter in layer.parameters():
        parameter.data[...] = rng.normal(size=channels)
    return layer


@given(rngs(), st.lists(batch_shapes(max_channels=1), min_size=1, max_size=6))
def test_momentum_none_is_the_plain_average_of_all_batches_since_the_last_reset(rng, shapes):
    """Averages of k <= 6 statistics of magnitude near 1, of n <= 31 values: 1e-13 = 450 eps."""
    layer = npbn.BatchNorm1d(1, momentum=None, dtype=np.float64)
    layer(draw(0, (3, 1)) + 1e3)
    layer.reset_running_stats()
    assert layer.num_batches_tracked == 0
    batches = [rng.normal(size=shape) for shape in shapes]
    for x in batches:
        layer(x)
    assert layer.num_batches_tracked == len(batches)
    for running, expected in (
        (layer.running_mean, np.mean([x.mean() for x in batches])),
        (layer.running_var, np.mean([x.var(ddof=1) for x in batches])),
    ):
        assert_within(running, [expected], 1e-13 * (1 + abs(expected)))


@pytest.mark.parametrize("momentum", [None, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (5, 3, 0)])
def test_an_empty_batch_counts_and_changes_no_statistic(shape, momentum):
    layer = npbn.BatchNorm1d(3, momentum=momentum)
    layer(draw(0, (4, 3), "f4"))
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    y = layer(np.zeros(shape, np.float32))
    assert y.shape == layer.backward(y).shape == shape
    assert_same_bits(layer.running_mean, mean)
    assert_same_bits(layer.running_var, var)
    assert layer.num_batches_tracked == 1 + (momentum is not None)  # averages count values
    np.testing.assert_array_equal(layer.weight.grad, np.zeros(3))
    np.testing.assert_array_equal(layer.bias.grad, np.zeros(3))


def test_two_positions_of_one_row_are_enough_in_training():
    layer, x = npbn.BatchNorm1d(3, dtype=np.float64), draw(0, (1, 3, 2))
    theirs = torch_layer(layer, "float64")
    assert_within(layer(x), array(theirs(tensor(x))), 1e-12)
    assert_within(layer.running_var, array(theirs.running_var), 1e-12)


def test_one_row_is_enough_in_eval_mode():
    layer = npbn.BatchNorm1d(3).eval()
    assert layer(draw(0, (1, 3), "f4")).shape == (1, 3)
    assert npbn.BatchNorm1d(3).predict(draw(0, (1, 3), "f4")).shape == (1, 3)


def test_running_statistics_are_updated_in_place_as_torchs_are():
    layer = npbn.BatchNorm1d(3)
    held = [getattr(layer, name) for name in BUFFERS]
    layer(draw(0, (4, 3), "f4"))
    assert all(getattr(layer, name) is array for name, array in zip(BUFFERS, held, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"affine": False}, {"track_running_stats": False}]
)
def test_resets_give_what_a_new_layer_of_torchs_has(options):
    """1 and 0 for scale and shift; 0, 1 and 0 for mean, variance and counter."""
    mine, its = npbn.BatchNorm1d(3, **options), torch.nn.BatchNorm1d(3).state_dict()
    new = {key: its[key].numpy() for key in mine.state_dict()}
    mine.load_state_dict({key: value + 5 for key, value in new.items()})
    mine.reset_running_stats()
    for key, value in mine.state_dict().items():
        assert_same_bits(value, new[key] + 5 if key in ("weight", "bias") else new[key], key)
    mine.reset_parameters()
    for key, value in mine.state_dict().items():
        assert_same_bits(value, new[key], key)


def test_eval_mode_leaves_statistics_and_counter_alone():
    layer = npbn.BatchNorm1d(3)
    layer(draw(0, (4, 3), "f4"))
    before = snapshot(layer.eval())
    layer(draw(1, (4, 3), "f4"))
    assert_unchanged(layer, before)


def test_new_values_written_into_parameters_and_statistics_take_effect_at_the_next_call():
    layer, x = npbn.BatchNorm1d(3, dtype=np.float64).eval(), draw(0, (4, 3))
    layer(x)
    layer.weight.data[...], layer.bias.data[...] = 2, 1
    layer.running_mean[...], layer.running_var[...] = 5, 4 - layer.eps
    np.testing.assert_allclose(layer(x), (x - 5) / 2 * 2 + 1, rtol=0, atol=1e-13)
    np.testing.assert_allclose(layer.predict(x), (x - 5) / 2 * 2 + 1, rtol=0, atol=1e-13)


def test_defaults_are_torchs():
    layer, theirs = npbn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert_same_bits(layer.state_dict()[key], array(value), key)


@pytest.mark.skipif(
    "bias" not in inspect.signature(torch.nn.BatchNorm1d).parameters,
    reason="this torch has no bias keyword, and does not print it",
)
@given(layers("float32"))
def test_repr_is_torchs(layer):
    bias = {"bias": layer.bias is not None}
    names = "num_features", "eps", "momentum", "affine", "track_running_stats"
    options = {name: getattr(layer, name) for name in names}
    assert repr(layer) == repr(torch.nn.BatchNorm1d(**options, **bias))


# -- refusals -------------------------------------------------------------------------------------

ONE_VALUE = "more than 1 value per channel when training"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bad", "error", "fragments"),
    [
        (np.ones((), "f4"), ShapeError, ["(N, 3) or (N, 3, L)", "()"]),
        (np.ones(3, "f4"), ShapeError, ["(N, 3) or (N, 3, L)", "(3,)"]),
        (np.ones((2, 3, 4, 5), "f4"), ShapeError, ["(N, 3) or (N, 3, L)", "(2, 3, 4, 5)"]),
        (np.ones((5, 4), "f4"), ShapeError, ["3 channels", "(5, 4)"]),
        (np.ones((5, 4, 3), "f4"), ShapeError, ["3 channels", "(5, 4, 3)"]),
        (np.ones((3, 4), "f4"), ShapeError, ["3 channels", "(3, 4)"]),  # 3 samples
        (np.ones((5, 3)), DtypeError, ["float64", "float32", "astype"]),
        (np.ones((5, 3), int), DtypeError, ["int64", "float32", "astype"]),
        (np.ones((5, 3), bool), DtypeError, ["bool", "float32"]),
        (np.ones((5, 3), complex), DtypeError, ["complex128", "float32"]),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_changed(training, bad, error, fragments):
    layer = used_layer().train(training)
    assert_refused(layer, draw(1, (5, 3), "f4"), bad, error, ["BatchNorm1d(3)", *fragments])
    with pytest.raises(error):
        layer.predict(bad)


def used_layer(**options):
    """Return a layer of three channels that has statistics and gradients to lose."""
    layer = npbn.BatchNorm1d(3, **options)
    layer(draw(0, (4, 3), "f4"))
    layer.backward(draw(1, (4, 3), "f4"))
    return layer


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)])
@pytest.mark.parametrize(
    ("training", "options"),
    [(True, {}), (True, {"track_running_stats": False}), (False, {"track_running_stats": False})],
)
def test_one_value_per_channel_is_refused_where_the_batch_normalises(training, options, shape):
    layer, bad = used_layer(**options).train(training), np.ones(shape, np.float32)
    fragments = ["BatchNorm1d(3)", ONE_VALUE, str(shape), "drop_last"]
    assert_refused(layer, draw(1, (5, 3), "f4"), bad, BatchSizeError, fragments)


@pytest.mark.parametrize("eps", [0.0, -1e-5, np.nan])
def test_an_eps_that_is_not_positive_is_refused_in_training(eps):
    layer, x = used_layer(), draw(1, (5, 3), "f4")
    twin = copy.deepcopy(layer)
    layer(x), twin(x)
    before, layer.eps = snapshot(layer), eps
    with pytest.raises(ValueError, match=rf"BatchNorm1d\(3\): expected eps > 0 .*{eps}"):
        layer(x)
    assert_unchanged(layer, before)
    assert_same_bits(layer.backward(x), twin.backward(x))


def test_parameters_of_another_float_type_are_named_in_the_refusal():
    layer, good = used_layer().double(), draw(1, (5, 3))
    bad = good.astype(np.float16)
    fragments = ["float16", "running_mean float64", "net.float()"]
    assert_refused(layer, good, bad, DtypeError, fragments)


@pytest.mark.parametrize("dtype", [int, complex, "longdouble"])
def test_a_dtype_that_is_not_computed_in_is_refused(dtype):
    with pytest.raises(DtypeError, match="BatchNorm1d: expected dtype float16, float32 or"):
        npbn.BatchNorm1d(3, dtype=dtype)


# -- contract -------------------------------------------------------------------------------------


class TestContract(LayerContract):
    shape = (5, 3)
    options: dict = {}  # noqa: RUF012

    def make(self):
        layer = npbn.BatchNorm1d(self.shape[1], **self.options, dtype=np.float64)
        for seed, parameter in enumerate(layer.parameters()):
            parameter.data[...] = draw(seed, self.shape[1])
        return layer


class TestContractWithPositions(TestContract):
    shape = (4, 3, 2)


class TestContractWithoutBias(TestContract):
    options = {"bias": False, "momentum": None}  # noqa: RUF012


class TestContractWithoutParameters(TestContract):
    options = {"affine": False}  # noqa: RUF012


class TestContractWithoutRunningStatistics(TestContract):
    options = {"track_running_stats": False}  # noqa: RUF012


@pytest.mark.parametrize("shape", [(1, 0), (1, 0, 1)])
def test_one_value_of_no_channel_is_refused_as_in_torch(shape):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm1d(0)(torch.zeros(shape))
    with pytest.raises(BatchSizeError, match="more than 1 value per channel"):
        npbn.BatchNorm1d(0)(np.zeros(shape, np.float32))
