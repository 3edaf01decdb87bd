"""fold_batch_norm: the folded network predicts what the whole one does, or is refused."""

import copy
import json
import math
import pickle
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import array, assert_same_bits, assert_within, rngs
from hypothesis import given
from torch import nn
from torch.nn.utils import fusion

import npbn
from npbn import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.config import from_config, to_config
from npbn.errors import ConfigError
from npbn.folding import fold_batch_norm
from npbn.layers.batch_norm import BatchNorm
from npbn.torch_reference import copy_to_torch

# -- drawing --------------------------------------------------------------------------------


def fill(net, rng):
    """Draw parameters of either sign, and variances over six decades, some of them 0."""
    for parameter in net.parameters():
        parameter.data[...] = rng.uniform(-2, 2, parameter.shape)
    for name, buffer in net.named_buffers():
        kind = name.rpartition(".")[2]
        if kind == "running_mean":
            buffer[...] = 3 * rng.normal(size=buffer.shape)
        elif kind == "running_var":
            zero = rng.random(buffer.shape) < 0.2
            buffer[...] = np.where(zero, 0, 10 ** rng.uniform(-3, 3, buffer.shape))
    return net


GHOSTS, LIMITS = {"ghost_size": 2}, {"r_max": 3.0, "d_max": 5.0}
VARIANTS = {  # that evaluate as BatchNorm does
    BatchNorm1d: [partial(npbn.GhostBatchNorm1d, **GHOSTS), partial(npbn.BatchRenorm1d, **LIMITS)],
    BatchNorm2d: [partial(npbn.GhostBatchNorm2d, **GHOSTS), partial(npbn.BatchRenorm2d, **LIMITS)],
}


@st.composite
def norms(draw, kind, channels, least=0):
    """Draw BatchNorms in a row, with Identity and Dropout anywhere among them."""
    layers, kinds = [], [kind, *VARIANTS[kind]]
    for _ in range(draw(st.integers(least, 2))):
        options = {name: draw(st.booleans()) for name in ("affine", "bias")}
        kind = draw(st.sampled_from(kinds))
        layers.append(kind(channels, eps=draw(st.sampled_from([1e-5, 1e-2])), **options))
        layers += draw(st.sampled_from([[], [Identity()], [Dropout(0.5)]]))
    return draw(st.sampled_from([[], [Dropout(0.3)]])) + layers


activations = st.sampled_from([[], [ReLU()], [Sigmoid()]])


@st.composite
def blocks(draw, linear, kind, inputs, outputs, pads):
    """Draw a Linear or Conv2d with BatchNorms before it, or after it, or both."""
    before = [] if pads else draw(norms(kind, inputs))
    after = draw(norms(kind, outputs, least=0 if before else 1))
    return [*before, linear, *after, *copy.deepcopy(draw(activations))]


@st.composite
def vector_layers(draw, inputs, count):
    layers = []
    for _ in range(count):
        outputs = draw(st.integers(1, 4))
        linear = Linear(inputs, outputs, bias=draw(st.booleans()))
        layers += draw(blocks(linear, BatchNorm1d, inputs, outputs, pads=False))
        inputs = outputs
    return layers


@st.composite
def image_layers(draw, size, inputs=2):
    """Draw convolutions of (N, 2, size, size) and a Flatten; return them and what comes out."""
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        outputs, pads = draw(st.sampled_from([2, 4])), draw(st.booleans())
        conv = Conv2d(
            inputs,
            outputs,
            kernel_size=draw(st.sampled_from([1, 2, (1, 3), 3])),
            stride=1 if pads else draw(st.sampled_from([1, (2, 1)])),
            padding=draw(st.sampled_from([1, (0, 1), "same"] if pads else [0, "valid"])),
            dilation=1 if pads else draw(st.sampled_from([1, (1, 2)])),
            groups=draw(st.sampled_from([1, 2])),
            bias=draw(st.booleans()),
        )
        layers += draw(blocks(conv, BatchNorm2d, inputs, outputs, pads))
        layers += draw(st.sampled_from([[], [MaxPool2d((1, 2), 1)]]))
        inputs = outputs
    layers.append(Flatten())
    probe = Sequential(*layers).predict(np.zeros((1, 2, size, size), np.float32))
    return layers, probe.shape[1]


@st.composite
def networks(draw):
    """Draw a network, nested, filled, in any modes; return it and the shape of a sample."""
    layers, shape = [], (draw(st.integers(1, 4)),)
    if draw(st.booleans()):
        shape = (2, 12, 12)
        layers, features = draw(image_layers(shape[1]))
        layers += draw(vector_layers(features, draw(st.integers(0, 1))))
    else:
        layers = draw(vector_layers(shape[0], draw(st.integers(1, 3))))
    for _ in range(draw(st.integers(0, 2))):  # a part of it into a Sequential of its own
        part = slice(*sorted(draw(st.tuples(*[st.integers(0, len(layers))] * 2))))
        layers[part] = [Sequential(*layers[part])]
    net = fill(Sequential(*layers), draw(rngs()))
    for module in net.modules():
        module.training = draw(st.booleans())
    return net, shape


# -- the bound ------------------------------------------------------------------------------


def flat(net):
    for layer in net:
        if isinstance(layer, Sequential):
            yield from flat(layer)
        else:
            yield layer


def magnitude(net, x):
    """Return the magnitude of the terms of the output, and how many roundings they see.

    That is the network of the absolute values: a layer turns an error of k roundings of its
    input's magnitude into one of at most k of its output's, and adds its own, one for each term
    of a sum, and 16 for the scale, the shift and their rounding. Activations and pooling make no
    error larger; a Sigmoid's is in units of its output, at most 1.
    """
    m, roundings = np.abs(np.asarray(x, np.float64)), 0
    for layer in flat(net):
        if isinstance(layer, Linear | Conv2d):
            absolute = copy.deepcopy(layer).double()
            for parameter in absolute.parameters():
                parameter.data = np.abs(parameter.data)
            m = absolute.predict(m)
            roundings += math.prod(layer.weight.shape[1:]) + 16
        elif isinstance(layer, BatchNorm):
            along = (-1, *(1,) * (m.ndim - 2))
            scale, mean = (
                1 / np.sqrt(layer.running_var.astype(float) + layer.eps),
                layer.running_mean,
            )
            if layer.weight is not None:
                scale = scale * np.abs(layer.weight.data)
            m = (m + np.abs(mean).reshape(along)) * scale.reshape(along)
            if layer.bias is not None:
                m = m + np.abs(layer.bias.data).reshape(along)
            roundings += 16
        elif isinstance(layer, Sigmoid):
            m, roundings = np.maximum(m, 1), roundings + 16
        elif isinstance(layer, MaxPool2d | Flatten):
            m = layer.predict(m)
    return m, roundings


def assert_folded(folded, net, x, tolerance=None):
    """Assert that the networks predict the same, within twice the roundings that they see."""
    terms, roundings = magnitude(net, x)
    unit = roundings * float(np.finfo(x.dtype).eps)
    if tolerance is not None:
        assert unit < tolerance
    assert not any(isinstance(module, BatchNorm) for module in folded.modules())
    bound = (unit if tolerance is None else tolerance) * terms
    assert_within(folded.predict(x), net.predict(x), bound)


@given(networks(), rngs())
def test_a_folded_network_predicts_the_same_in_float64_to_1e_12(case, rng):
    net, shape = case
    net.double()
    assert_folded(fold_batch_norm(net), net, rng.normal(size=(3, *shape)), 1e-12)


@given(networks(), rngs())
def test_a_folded_network_predicts_the_same_in_float32(case, rng):
    net, shape = case
    folded = fold_batch_norm(net)
    assert {parameter.dtype for parameter in folded.parameters()} <= {np.dtype(np.float32)}
    assert_folded(folded, net, rng.normal(size=(3, *shape)).astype(np.float32))


@pytest.mark.parametrize("network", ["MLP", "CNN"])
@given(rngs())
def test_the_published_networks_fold(network, rng):
    arguments, shape = {"MLP": ((6, 5, 3), (6,)), "CNN": ((2, 8, 5, 3), (2, 8, 8))}[network]
    net = fill(getattr(npbn, network)(*arguments, dtype=np.float64, rng=rng), rng)
    plain = getattr(npbn, network)(*arguments, use_batch_norm=False, dtype=np.float64)
    folded = fold_batch_norm(net)
    assert type(folded) is type(net)
    assert [name for name, _ in folded.named_children()] == [n for n, _ in plain.named_children()]
    x = rng.normal(size=(2, *shape))
    assert_folded(folded, net, x, 1e-12)
    plain.load_state_dict(folded.state_dict())
    assert_same_bits(plain.predict(x), folded.predict(x))


# -- torch's fusion -------------------------------------------------------------------------


def assert_fused(net, its, rng):
    """Compare with torch's fused layer: five roundings on either side, of each term."""
    model = nn.Sequential(*its).double().eval()
    fill(net.double(), rng)
    copy_to_torch(net, model)
    fuse = fusion.fuse_linear_bn_eval if isinstance(net[0], Linear) else fusion.fuse_conv_bn_eval
    fused, folded = fuse(*model), fold_batch_norm(net)[0]
    layer, norm = net
    weight = 1.0 if norm.weight is None else np.abs(norm.weight.data)
    bias = 0.0 if norm.bias is None else np.abs(norm.bias.data)
    own = 0.0 if layer.bias is None else np.abs(layer.bias.data)
    scale = weight / np.sqrt(norm.running_var + norm.eps)
    terms = scale * (own + np.abs(norm.running_mean)) + bias
    unit = 10 * np.finfo(np.float64).eps
    expected = array(fused.weight)
    assert_within(folded.weight.data, expected, unit * np.abs(expected), "weight")
    assert_within(folded.bias.data, array(fused.bias), unit * terms, "bias")


@given(rngs(), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_folded_linear_is_torchs(rng, inputs, outputs, bias):
    ours, its = (
        [lib.Linear(inputs, outputs, bias), lib.BatchNorm1d(outputs, 1e-3)] for lib in (npbn, nn)
    )
    assert_fused(Sequential(*ours), its, rng)


@given(
    rngs(), st.sampled_from([1, 2]), st.booleans(), st.booleans(), st.sampled_from([0, 1, "same"])
)
def test_a_folded_convolution_is_torchs(rng, groups, bias, affine, padding):
    ours, its = (
        [
            lib.Conv2d(2, 4, (2, 3), padding=padding, groups=groups, bias=bias),
            lib.BatchNorm2d(4, affine=affine),
        ]
        for lib in (npbn, nn)
    )
    assert_fused(Sequential(*ours), its, rng)


# -- the original and the folded are two ----------------------------------------------------


@given(networks(), rngs())
def test_the_original_stays_as_it_was(case, rng):
    net, shape = case
    net.double()
    twin = copy.deepcopy(net)
    x = rng.normal(size=(3, *shape))
    y, _ = net(x), twin(x)
    state, modes = net.state_dict(), [module.training for module in net.modules()]
    folded = fold_batch_norm(net)
    arrays = [*net._state(), *folded._state()]
    for parameter in folded.parameters():
        parameter.data[...] = np.nan
    assert [module.training for module in net.modules()] == modes
    assert net.state_dict().keys() == state.keys()
    for key, value in net.state_dict().items():
        assert_same_bits(value, state[key], key)
    assert len({a.ctypes.data for _, a in arrays if a.size}) == sum(a.size > 0 for _, a in arrays)
    grad = rng.normal(size=y.shape)  # the forward pass still waits
    assert_same_bits(net.backward(grad), twin.backward(grad))


@given(networks(), rngs())
def test_the_folded_network_is_one_like_any_other(case, rng):
    """In eval mode; it pickles, is described, and learns."""
    net, shape = case
    net.double()
    x = rng.normal(size=(3, *shape))
    net.backward(rng.normal(size=net(x).shape))
    folded = fold_batch_norm(net)
    assert not any(module.training for module in folded.modules())
    assert all(parameter.grad is None for parameter in folded.parameters())
    again = from_config(json.loads(json.dumps(to_config(folded))))
    again.load_state_dict(folded.state_dict())
    for copied in (again, pickle.loads(pickle.dumps(folded)), fold_batch_norm(folded)):
        assert_same_bits(copied.predict(x), folded.predict(x))

    layout = {name: p.data.flags.f_contiguous for name, p in net.named_parameters()}
    for name, parameter in folded.named_parameters():
        if name in layout:
            assert parameter.data.flags.f_contiguous == layout[name]
    grad = rng.normal(size=folded(x).shape)
    before = folded.state_dict()
    for each in (folded, again.eval()):
        each(x)
        each.backward(grad)
        npbn.SGD(each.parameters(), lr=0.1).step()
    for name, parameter in folded.named_parameters():
        assert_same_bits(again.state_dict()[name], parameter.data)
        assert_same_bits(parameter.data, before[name] - 0.1 * parameter.grad)


@pytest.mark.parametrize("frozen_first", [False, True], ids=["by hand", "by freeze"])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_keep_requires_grad_and_a_new_bias_has_the_weights(bias, frozen_first):
    net = Sequential(Linear(2, 2, bias), BatchNorm1d(2), ReLU(), Linear(2, 2, bias), BatchNorm1d(2))
    net[1].freeze()
    if frozen_first:
        net[0].freeze()
    else:
        net[0].weight.requires_grad = False
    folded = fold_batch_norm(net)
    assert folded[0].frozen == frozen_first
    assert not folded[0].weight.requires_grad
    assert folded[0].bias.requires_grad == (bias and not frozen_first)
    assert folded[2].weight.requires_grad
    assert folded[2].bias.requires_grad
    folded.freeze(False)
    assert folded[0].weight.requires_grad == frozen_first
    assert folded[0].bias.requires_grad == (frozen_first or bias)


def test_tied_weights_are_folded_each_by_its_own():
    rng = np.random.default_rng(0)
    net = Sequential(Linear(3, 3), BatchNorm1d(3), ReLU(), Linear(3, 3), BatchNorm1d(3)).double()
    net[3].weight = net[0].weight
    fill(net, rng)
    folded = fold_batch_norm(net)
    assert_folded(folded, net, rng.normal(size=(4, 3)), 1e-12)
    assert folded[0].weight is not folded[2].weight
    assert net[3].weight is net[0].weight


# -- numbers at the edge --------------------------------------------------------------------


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("var", [0.0, 1e-30, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("mean", [0.0, -1e6, np.nan])
@np.errstate(all="raise")
def test_strange_statistics_do_in_the_folded_network_what_they_did(side, var, mean):
    """1e-9 of the terms: six digits of a mean of 1e6 cancel. NaN where there was NaN."""
    rng = np.random.default_rng(0)
    linear, norm = Linear(3, 3, rng=rng), BatchNorm1d(3)
    net = Sequential(*([linear, norm] if side == "before" else [norm, linear])).double()
    norm.running_mean[1], norm.running_var[1] = mean, var
    x = rng.normal(size=(5, 3))
    expected, found = net.predict(x), fold_batch_norm(net).predict(x)
    assert_within(
        found, expected, 1e-12 * (1 + np.abs(expected)) * max(1, abs(np.nan_to_num(mean)))
    )


def test_what_a_float16_cannot_hold_is_refused():
    net = Sequential(Linear(2, 2, dtype=np.float16), BatchNorm1d(2, dtype=np.float16))
    net[1].running_mean[...], net[1].running_var[...] = 300, 0  # 300 / sqrt(1e-5) = 94868
    with pytest.raises(ConfigError, match=r"fold_batch_norm: 1 .*range of float16"):
        fold_batch_norm(net)
    net[1].running_var[...] = 1
    assert fold_batch_norm(net)[0].bias.dtype == np.float16


# -- what cannot be folded ------------------------------------------------------------------


class Residual(Sequential):
    """Not one layer after another."""

    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return x + y, cache


class Noisy(BatchNorm1d):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return y + 1, cache


class Doubled(Linear):
    def _apply(self, x, predict):
        y, cache = super()._apply(x, predict)
        return 2 * y, cache


class AlwaysDrops(Dropout):
    def _apply(self, x, predict):
        return super()._apply(x, False)


class Foreign(Module):
    def __init__(self, inner):
        self.inner = inner

    def _apply(self, x, predict):
        return self.inner._apply(x, predict)


def linear(inputs=3, outputs=3):
    return Linear(inputs, outputs)


def conv(*args, **options):
    return Conv2d(3, 3, *(args or (3,)), **options)


REFUSED = {
    "activation": (
        lambda: Sequential(linear(), ReLU(), BatchNorm1d(3), Sigmoid(), linear()),
        ["2 cannot", "before it stands ReLU()", "after it stands Sigmoid()"],
    ),
    "no neighbour": (
        lambda: Sequential(BatchNorm1d(3)),
        ["0 cannot", "before it stands nothing", "after it stands nothing"],
    ),
    "padding": (
        lambda: Sequential(a=Sequential(norm=BatchNorm2d(3)), conv=conv(padding=(0, 1))),
        ["a.norm cannot", "after it stands Conv2d(3, 3", "pads with zeros"],
    ),
    "same": (lambda: Sequential(BatchNorm2d(3), conv(padding="same")), ["pads with zeros"]),
    "channels before": (
        lambda: Sequential(linear(), BatchNorm1d(4)),
        ["before it stands Linear", "with 3 channels there instead of 4"],
    ),
    "channels after": (
        lambda: Sequential(BatchNorm2d(6), conv(1, groups=3)),
        ["after it stands Conv2d", "with 3 channels there instead of 6"],
    ),
    "no running statistics": (
        lambda: Sequential(linear(), BatchNorm1d(3, track_running_stats=False)),
        ["1 keeps no running statistics", "track_running_stats=False"],
    ),
    "flattened": (
        lambda: Sequential(conv(), Flatten(), BatchNorm1d(3)),
        ["2 cannot", "before it stands Flatten"],
    ),
    "images before Linear": (lambda: Sequential(BatchNorm2d(3), linear()), ["stands Linear"]),
    "images after Linear": (lambda: Sequential(linear(), BatchNorm2d(3)), ["stands Linear"]),
    "vectors before Conv2d": (lambda: Sequential(BatchNorm1d(3), conv()), ["stands Conv2d"]),
    "three dimensions": (lambda: Sequential(conv(), BatchNorm3d(3)), ["stands Conv2d"]),
    "foreign": (
        lambda: Sequential(a=linear(), inner=Foreign(Sequential(linear(), BatchNorm1d(3)))),
        ["inner is a Foreign", "BatchNorm"],
    ),
    "residual": (
        lambda: Sequential(linear(), Residual(linear(), BatchNorm1d(3))),
        ["1 is a Residual", "BatchNorm"],
    ),
    "residual at the root": (
        lambda: Residual(linear(), BatchNorm1d(3)),
        ["expected a Sequential that runs its layers one after another", "Residual"],
    ),
    "residual beside": (
        lambda: Sequential(Residual(linear()), BatchNorm1d(3)),
        ["1 cannot", "before it stands Residual("],
    ),
    "BatchNorm of its own": (lambda: Sequential(linear(), Noisy(3)), ["1 is a Noisy"]),
    "Linear of its own": (lambda: Sequential(Doubled(3, 3), BatchNorm1d(3)), ["stands Doubled"]),
    "Dropout of its own": (
        lambda: Sequential(linear(), AlwaysDrops(), BatchNorm1d(3)),
        ["before it stands AlwaysDrops"],
    ),
    "no Sequential": (lambda: linear(), ["expected a Sequential", "Linear"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_is_refused_and_the_message_says_why(case):
    make, fragments = REFUSED[case]
    net = make()
    before = copy.deepcopy(net)
    with pytest.raises(ConfigError, match="fold_batch_norm: ") as caught:
        fold_batch_norm(net)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert repr(net) == repr(before)
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    for key, value in before.state_dict().items():
        assert_same_bits(net.state_dict()[key], value)


def shared(where):
    layer, norm = linear(), BatchNorm1d(3)
    return {
        "norm": lambda: Sequential(layer, norm, ReLU(), linear(), norm),
        "norm without parameters": lambda: Sequential(
            layer, bare := BatchNorm1d(3, affine=False), ReLU(), linear(), bare
        ),
        "linear": lambda: Sequential(layer, norm, ReLU(), layer),
        "block": lambda: Sequential(block := Sequential(layer, norm), ReLU(), block),
        "linear in a foreign module": lambda: Sequential(layer, norm, Foreign(layer)),
    }[where]()


@pytest.mark.parametrize(
    "where", ["norm", "norm without parameters", "linear", "block", "linear in a foreign module"]
)
def test_what_occurs_twice_is_refused(where):
    with pytest.raises(ConfigError, match=r"fold_batch_norm: .* occurs twice"):
        fold_batch_norm(shared(where))


def test_layers_that_occur_twice_beside_no_norm_do_not_matter():
    rng = np.random.default_rng(0)
    twice = linear()
    net = fill(Sequential(twice, ReLU(), twice, ReLU(), linear(), BatchNorm1d(3)).double(), rng)
    folded = fold_batch_norm(net)
    assert folded[0] is folded[2]
    assert_folded(folded, net, rng.normal(size=(2, 3)), 1e-12)


def test_what_cannot_take_it_before_leaves_it_to_what_comes_after():
    """Also where a layer before it occurs twice, or its channels are others."""
    rng = np.random.default_rng(0)
    twice = linear()
    for layers in (
        [twice, ReLU(), twice, BatchNorm1d(3), linear(3, 2)],
        [Sigmoid(), BatchNorm1d(3), Identity(), BatchNorm1d(3), Dropout(), linear(3, 2)],
    ):
        net = fill(Sequential(*layers).double(), rng)
        assert_folded(fold_batch_norm(net), net, rng.normal(size=(2, 3)), 1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@given(rngs(), st.booleans())
def test_what_goes_into_the_convolution_after_it_goes_to_its_group(groups, rng, bias):
    after = Conv2d(4, 8, (2, 3), stride=(1, 2), groups=groups, bias=bias)
    net = fill(Sequential(BatchNorm2d(4), BatchNorm2d(4, affine=False), after).double(), rng)
    assert_folded(fold_batch_norm(net), net, rng.normal(size=(2, 4, 3, 5)), 1e-12)


@pytest.mark.parametrize("padding", [0, "valid", "same", (0, 0)])
def test_a_convolution_of_one_pixel_never_pads(padding):
    rng = np.random.default_rng(0)
    net = fill(Sequential(BatchNorm2d(3), conv(1, padding=padding)).double(), rng)
    assert_folded(fold_batch_norm(net), net, rng.normal(size=(2, 3, 4, 4)), 1e-12)


def test_a_module_of_somebody_elses_without_a_norm_is_left_alone():
    rng = np.random.default_rng(0)
    net = fill(Sequential(linear(), BatchNorm1d(3), Foreign(Residual(linear()))).double(), rng)
    x = rng.normal(size=(2, 3))
    terms = magnitude(Sequential(net[0], net[1], net[2].inner[0]), x)[0]
    expected = net.predict(x)
    assert_within(fold_batch_norm(net).predict(x), expected, 1e-12 * (1 + 2 * terms))
