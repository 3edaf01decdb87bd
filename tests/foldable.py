"""Networks that can be folded, and how far rounding may take the folded one away."""

import copy
import math
from functools import partial

import hypothesis.strategies as st
import numpy as np
from helpers import assert_within, rngs

import npbn
from npbn import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.layers.batch_norm import BatchNorm

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
