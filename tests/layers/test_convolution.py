"""The layer Conv2d against torch's, and its manners."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import DTYPE_PAIRS, array, assert_same_bits, assert_within, rngs, tensor
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import LayerContract, assert_refused, draw

import npbn
from npbn.errors import DtypeError, ShapeError

# What torch says of an odd total of padding, and pytest would raise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("engine"),
]

# Positional and keyword arguments of the layer; each kernel fits into a 7x7 image.
ARGUMENTS = [
    ((2, 3, 3), {}),
    ((4, 6, (3, 2)), {"stride": (1, 2), "padding": (0, 2), "groups": 2}),
    ((3, 6, 2), {"padding": "same", "dilation": (1, 2), "groups": 3, "bias": False}),
    ((2, 2, [1, 4]), {"padding": "same"}),
    ((2, 4, 3, 2, 1, 2, 2, False), {}),
    ((1, 2, (4, 3)), {"padding": "valid", "stride": 3, "dilation": 2}),
    ((2, 3, 1), {"bias": False, "padding_mode": "zeros"}),
]


def pair(positional, keywords, dtype, torch_dtype, rng):
    """Return a layer and torch's with the same parameters."""
    mine = npbn.Conv2d(*positional, **keywords, dtype=dtype, rng=rng)
    theirs = torch.nn.Conv2d(*positional, **keywords, dtype=getattr(torch, torch_dtype))
    state = {key: tensor(value, torch_dtype) for key, value in mine.state_dict().items()}
    theirs.load_state_dict(state)
    return mine, theirs


def run(theirs, x, grad, dtype):
    """Return the output and the input's gradient of torch's layer."""
    leaf = tensor(x, dtype, requires_grad=True)
    y = theirs(leaf)
    y.backward(tensor(grad, dtype))
    return array(y), array(leaf.grad)


@pytest.mark.parametrize(("dtype", "torch_dtype"), DTYPE_PAIRS)
@given(
    rng=rngs(),
    arguments=st.sampled_from(ARGUMENTS),
    leading_shapes=st.lists(st.sampled_from([(), (0,), (1,), (3,), (17,)]), min_size=1, max_size=3),
    image=st.tuples(*[st.integers(7, 9)] * 2),
    training=st.booleans(),
)
def test_several_passes_in_a_row_accumulate_torchs_gradients(
    dtype, torch_dtype, rng, arguments, leading_shapes, image, training
):
    """A sum of k terms loses at most (k + 2) eps Σ|terms|, and each pass adds one rounding.

    Of the magnitudes of everything, the layer's sums are Σ|terms|.
    """
    mine, theirs = pair(*arguments, dtype, torch_dtype, rng)
    mine.train(training)
    magnitudes = copy.deepcopy(theirs).double()
    for parameter in magnitudes.parameters():
        parameter.data.abs_()
    eps, positions = np.finfo(dtype).eps, 0
    outputs, inputs, *kernel = mine.weight.shape
    taps = math.prod(kernel)
    for leading in leading_shapes:
        x = rng.normal(size=(*leading, mine.in_channels, *image)).astype(dtype)
        y = mine(x)
        grad = rng.normal(size=y.shape).astype(dtype)
        grad_input = mine.backward(grad)
        torch_y, torch_grad_input = run(theirs, x, grad, torch_dtype)
        y_terms, input_terms = run(magnitudes, np.abs(x), np.abs(grad), "float64")
        assert y.dtype == grad_input.dtype == dtype
        assert_within(y, torch_y, (inputs * taps + 3) * eps * y_terms, "output")
        count = outputs // mine.groups * taps + 2
        assert_within(grad_input, torch_grad_input, count * eps * input_terms, "grad_input")
        positions += grad.size // outputs + 1
        names = dict(theirs.named_parameters()), dict(magnitudes.named_parameters())
        for name, parameter in mine.named_parameters():
            expected, terms = (array(side[name].grad) for side in names)
            assert parameter.grad.dtype == dtype
            assert_within(parameter.grad, expected, (positions + 2) * eps * terms, name)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
def test_repr_is_torchs(arguments):
    positional, keywords = arguments
    if isinstance(positional[2], list):  # torch's prints a list as a list, and works with it
        positional = (*positional[:2], tuple(positional[2]))
    theirs = torch.nn.Conv2d(*positional, **keywords)
    assert repr(npbn.Conv2d(*arguments[0], **keywords)) == repr(theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
def test_parameters_have_torchs_shapes_and_the_dtype_asked_for(arguments, dtype):
    positional, keywords = arguments
    mine = npbn.Conv2d(*positional, **keywords, dtype=dtype)
    theirs = torch.nn.Conv2d(*positional, **keywords).named_parameters()
    expected = {name: tuple(value.shape) for name, value in theirs}
    assert {name: p.shape for name, p in mine.named_parameters()} == expected
    assert {p.dtype for p in mine.parameters()} == {np.dtype(dtype)}
    y = mine(draw(0, (2, mine.in_channels, 7, 8), dtype))
    assert y.dtype == mine.backward(y).dtype == dtype
    assert {p.grad.dtype for p in mine.parameters()} == {np.dtype(dtype)}


def test_bias_is_none_without_and_parameters_are_float32_unless_told_otherwise():
    layer = npbn.Conv2d(2, 3, 1, bias=False)
    assert layer.bias is None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer.weight.dtype == np.float32


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
def test_state_goes_to_torch_and_comes_back(arguments):
    positional, keywords = arguments
    theirs, mine = torch.nn.Conv2d(*positional, **keywords), npbn.Conv2d(*positional, **keywords)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    for key, value in mine.state_dict().items():
        assert_same_bits(value, array(theirs.state_dict()[key]), key)
        assert value.flags.c_contiguous
    other = npbn.Conv2d(*positional, **keywords)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in other.state_dict().items()})
    for key, value in other.state_dict().items():
        assert_same_bits(array(theirs.state_dict()[key]), value, key)


@pytest.mark.parametrize("groups", [1, 4])
def test_initial_values_are_drawn_from_the_generator_the_weight_first(groups):
    """Uniform within torch's bound, 1 / sqrt(fan_in): computed in two ways, so up to rounding."""
    layer = npbn.Conv2d(4, 32, (3, 2), groups=groups, dtype="f8", rng=np.random.default_rng(1))
    rng, bound = np.random.default_rng(1), 1 / math.sqrt(4 // groups * 3 * 2)
    for parameter in (layer.weight, layer.bias):
        expected = rng.uniform(-bound, bound, parameter.shape)
        assert_within(parameter, expected, 8 * np.finfo(np.float64).eps * bound)
    theirs = torch.nn.Conv2d(4, 32, (3, 2), groups=groups)
    for p, other in zip(layer.parameters(), theirs.parameters(), strict=True):
        for largest in (np.abs(p.data).max(), float(other.detach().abs().max())):
            assert 0.8 * bound < largest <= bound * (1 + 1e-6)  # of 32 or more draws


def test_without_a_generator_every_layer_draws_other_values():
    first, second = (npbn.Conv2d(2, 3, 3).state_dict() for _ in range(2))
    for key, value in first.items():
        assert np.isfinite(value).all()
        assert (value != second[key]).any()


def test_one_seed_gives_one_layer_whatever_its_dtype():
    states = [
        npbn.Conv2d(2, 3, 3, dtype=dtype, rng=np.random.default_rng(3)).state_dict()
        for dtype in ("f4", "f8", "f4")
    ]
    for key, value in states[0].items():
        assert_same_bits(value, states[1][key].astype(np.float32))
        assert_same_bits(value, states[2][key])


def test_new_values_written_into_a_parameter_take_effect_at_the_next_call():
    layer, x = npbn.Conv2d(1, 2, 2, dtype=np.float64).eval(), draw(0, (4, 1, 3, 3))
    layer(x)
    layer.weight.data[...] = 0
    layer.bias.data[...] = [1, 2]
    expected = np.broadcast_to([[[1.0]], [[2.0]]], (4, 2, 2, 2))
    np.testing.assert_array_equal(layer(x), expected)


@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_a_batch_of_one(seed):
    layer, twin = (npbn.Conv2d(2, 3, 2, dtype="f8", rng=np.random.default_rng(0)) for _ in "12")
    x, grad = draw(seed, (2, 4, 5)), draw(seed + 9, (3, 3, 4))
    assert_same_bits(layer(x), twin(x[None])[0])
    assert_same_bits(layer.backward(grad), twin.backward(grad[None])[0])
    for mine, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_same_bits(mine.grad, theirs.grad)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bad", "error", "fragments"),
    [
        (np.ones((), "f4"), ShapeError, ["(N, 2, H, W)", "(2, H, W)", "()"]),
        (np.ones((6, 6), "f4"), ShapeError, ["(N, 2, H, W)", "(6, 6)"]),
        (np.ones((1, 4, 2, 6, 6), "f4"), ShapeError, ["(N, 2, H, W)", "(1, 4, 2, 6, 6)"]),
        (np.ones((4, 3, 6, 6), "f4"), ShapeError, ["(N, 2, H, W)", "(4, 3, 6, 6)"]),
        (np.ones((3, 6, 6), "f4"), ShapeError, ["(2, H, W)", "(3, 6, 6)"]),
        (np.ones((4, 6, 6, 2), "f4"), ShapeError, ["(N, 2, H, W)", "(4, 6, 6, 2)"]),
        (np.ones((4, 2, 0, 6), "f4"), ShapeError, ["at least 1", "(4, 2, 0, 6)"]),
        (np.ones((4, 2, 2, 6), "f4"), ShapeError, ["extent 5", "got 2", "1 and 1"]),
        (np.ones((4, 2, 6, 1), "f4"), ShapeError, ["extent 2", "got 1", "0 and 0"]),
        (np.ones((2, 2, 6), "f4"), ShapeError, ["extent 5", "got 2"]),
        (np.ones((4, 2, 6, 6)), DtypeError, ["float32", "float64"]),
        (np.ones((4, 2, 6, 6), "f2"), DtypeError, ["float32", "float16"]),
        (np.ones((4, 2, 6, 6), int), DtypeError, ["float32", "int64"]),
        (np.ones((4, 2, 6, 6), bool), DtypeError, ["float32", "bool"]),
        (np.ones((4, 2, 6, 6), complex), DtypeError, ["float32", "complex128"]),
    ],
)
def test_a_wrong_input_is_refused_and_nothing_is_changed(training, bad, error, fragments):
    layer = npbn.Conv2d(
        2, 3, (3, 2), padding=(1, 0), dilation=(2, 1), rng=np.random.default_rng(0)
    ).train(training)
    layer.backward(layer(np.ones((2, 2, 6, 6), np.float32)))
    fragments = ["Conv2d(2, 3, kernel_size=(3, 2))", *fragments]
    assert_refused(layer, draw(1, (5, 2, 6, 6), "f4"), bad, error, fragments)
    with pytest.raises(error):
        copy.deepcopy(layer).predict(bad)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"in_channels": 0}, ["in_channels", "got 0"]),
        ({"in_channels": -4}, ["in_channels", "got -4"]),
        ({"out_channels": 0}, ["out_channels", "got 0"]),
        ({"groups": 0}, ["groups", "got 0"]),
        ({"groups": -1}, ["groups", "got -1"]),
        ({"groups": 2.0}, ["groups", "got 2.0"]),
        ({"groups": 3}, ["in_channels", "groups, 3", "got 4"]),
        ({"groups": 4}, ["out_channels", "groups, 4", "got 6"]),
        ({"kernel_size": 0}, ["kernel_size", "at least 1", "got 0"]),
        ({"kernel_size": (3, -1)}, ["kernel_size", "(3, -1)"]),
        ({"kernel_size": (3,)}, ["kernel_size", "(3,)"]),
        ({"kernel_size": (3, 3, 3)}, ["kernel_size", "(3, 3, 3)"]),
        ({"kernel_size": 3.0}, ["kernel_size", "3.0"]),
        ({"kernel_size": "same"}, ["kernel_size", "'same'"]),
        ({"stride": 0}, ["stride", "at least 1", "got 0"]),
        ({"stride": (1, -2)}, ["stride", "(1, -2)"]),
        ({"stride": None}, ["stride", "None"]),
        ({"dilation": 0}, ["dilation", "at least 1", "got 0"]),
        ({"dilation": (-1, 1)}, ["dilation", "(-1, 1)"]),
        ({"padding": -1}, ["padding", "at least 0", "got -1"]),
        ({"padding": (0, -1)}, ["padding", "(0, -1)"]),
        ({"padding": 0.5}, ["padding", "0.5"]),
        ({"padding": "full"}, ["padding", "'same'", "'valid'", "'full'"]),
        ({"padding": "same", "stride": 2}, ["stride 1", "'same'", "(2, 2)"]),
        ({"padding": "same", "stride": (1, 3)}, ["stride 1", "'same'", "(1, 3)"]),
        ({"padding_mode": "reflect"}, ["padding_mode", "'zeros'", "'reflect'"]),
    ],
)
def test_wrong_arguments_are_refused_when_the_layer_is_made(changes, fragments):
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(ValueError, match="Conv2d: expected") as caught:
        npbn.Conv2d(**{**arguments, **changes})
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


@pytest.mark.parametrize("dtype", [int, complex, "longdouble"])
def test_a_dtype_that_is_not_computed_in_is_refused(dtype):
    with pytest.raises(DtypeError, match=r"Conv2d: expected dtype float16, float32 or float64"):
        npbn.Conv2d(3, 2, 1, dtype=dtype)


class TestContract(LayerContract):
    shape = (2, 2, 5, 6)

    def make(self):
        return npbn.Conv2d(2, 3, 3, dtype=np.float64, rng=np.random.default_rng(3))


class TestContractOfOneImage(TestContract):
    shape = (2, 5, 6)


class TestContractOfGroupsAndStridesWithoutBias(LayerContract):
    shape = (3, 4, 7, 5)

    def make(self):
        return npbn.Conv2d(
            *(4, 6, (3, 2)),
            stride=(2, 1),
            padding=(2, 1),
            dilation=(1, 3),
            groups=2,
            bias=False,
            dtype=np.float64,
            rng=np.random.default_rng(3),
        )
