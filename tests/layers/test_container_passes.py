"""Sequential forward and backward, against torch's."""

import copy
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import assert_within, rngs, tensor
from hypothesis import assume, given
from torch import nn

import npbn
from npbn.torch_reference import copy_to_torch


@st.composite
def stacks(draw, shape, max_size=5, depth=1):
    """Draw layers for inputs of shape (N, *shape); return them and the shape that comes out.

    A layer is a tuple of its class's name and keyword arguments, a nested stack a list.
    """
    layers = []
    for _ in range(draw(st.integers(0, max_size))):
        kinds = ["Linear", "BatchNorm1d", "ReLU", "Sigmoid", "Identity", "Flatten"]
        kind = draw(st.sampled_from(kinds + ["Sequential"] * depth))
        if kind == "Sequential":
            inner, shape = draw(stacks(shape, max_size=3, depth=depth - 1))
            layers.append(inner)
            continue
        options = {}
        if kind == "Linear":
            out_features = draw(st.integers(1, 5))
            options = {"in_features": shape[-1], "out_features": out_features}
            options["bias"] = draw(st.booleans())
            shape = [*shape[:-1], out_features]
        elif kind == "BatchNorm1d":
            options = {
                "num_features": shape[0],
                "eps": draw(st.sampled_from([1e-5, 1e-2])),
                "momentum": draw(st.sampled_from([None, 0.1, 1.0])),
                "affine": draw(st.booleans()),
                "track_running_stats": draw(st.booleans()),
                "bias": draw(st.booleans()),
            }
        elif kind == "Flatten":
            shape = [int(np.prod(shape))]
        layers.append((kind, options))
    return layers, shape


@st.composite
def cases(draw):
    """Draw a stack and the shape of a batch for it."""
    shape = [draw(st.integers(1, 4)), draw(st.integers(1, 3))]
    layers, _ = draw(stacks(shape))
    # Four rows or more: of two, a channel's deviation may happen to be tiny against its mean,
    # and then the problem, not the code, loses digits.
    return layers, (draw(st.integers(4, 7)), *shape)


def build(layers, library, **dtype):
    made = []
    for layer in layers:
        if isinstance(layer, list):
            made.append(build(layer, library, **dtype))
        else:
            name, options = layer
            learnt = name in ("Linear", "BatchNorm1d")
            made.append(getattr(library, name)(**options, **(dtype if learnt else {})))
    return library.Sequential(*made)


def twins(layers, rng):
    """Build the stack in both libraries, in float64, with the same drawn parameters and state."""
    net = build(layers, npbn, dtype=np.float64)
    model = build(layers, nn, dtype=torch.float64)
    for parameter in net.parameters():
        parameter.data[...] = rng.uniform(-1, 1, parameter.shape)
    for name, buffer in net.named_buffers():
        buffer[...] = 3 if name.endswith("tracked") else rng.uniform(0.5, 2, buffer.shape)
    copy_to_torch(net, model)
    return net, model


def condition(batch_norm, x):
    """Return by how much BatchNorm magnifies rounding: (1 + κ)², κ = max(|x| + |mean|) / std.

    Its input is rounded in units of max |x|, which it divides by the deviation; in backward
    the rounded x̂ meets gradients that are divided once more.
    """
    x = x.detach().transpose(0, 1).flatten(1)
    mean, var = batch_norm.running_mean, batch_norm.running_var
    if batch_norm.training or mean is None:
        mean, var = x.mean(1), x.var(1, correction=0)
    kappa = (x.abs().amax(1) + mean.abs()) / (var + batch_norm.eps).sqrt()
    return (1 + kappa.max().item()) ** 2


def assert_same_run(net, model, x, rng, input_grad=True):
    """Go forward and back in both; compare output, gradients and running statistics.

    The tolerance: layers no wider than 12 round each number some 20 times, a dozen of them on
    the way there and back 500 times, half an eps each, on either side, and in units of the
    largest number around; 2^-43 is 512 eps. BatchNorm's condition comes on top. Inputs of ReLU
    that are a rounding away from its kink (not at it) are no test of either library.
    """
    conditions, at_the_kink = [1.0], []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.register_forward_pre_hook(lambda m, args: conditions.append(condition(m, *args)))
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(
                lambda _, args: at_the_kink.append(((args[0] != 0) & (args[0].abs() < 1e-9)).any())
            )
    its_x = tensor(x, requires_grad=True)
    its_y = model(its_x)
    assume(not any(at_the_kink))

    y = net(x)
    grad_output = rng.normal(size=y.shape)
    grad_input = net.backward(grad_output, input_grad)
    its_y.backward(tensor(grad_output))

    expected = {"output": its_y.detach()}
    found = {"output": y}
    if input_grad:
        expected["input"], found["input"] = its_x.grad, grad_input
    else:
        assert grad_input is None
    for name, parameter in model.named_parameters():
        expected[f"{name}.grad"] = parameter.grad
    for name, parameter in net.named_parameters():
        found[f"{name}.grad"] = parameter.grad
    expected |= model.state_dict()
    found |= net.state_dict()

    assert found.keys() == expected.keys()
    absent = {name for name, value in expected.items() if value is None}
    assert absent == {name for name, value in found.items() if value is None}
    expected = {
        name: value.detach().numpy() for name, value in expected.items() if value is not None
    }
    values = [*expected.values(), x, grad_output]
    bound = 2**-43 * math.prod(conditions) * max(abs(value).max(initial=1) for value in values)
    for name, value in expected.items():
        assert_within(found[name], value, bound, name)


@given(cases(), rngs(), st.booleans(), st.data())
def test_a_random_stack_is_torchs(case, rng, input_grad, data):
    """Each layer in its own mode (frozen BatchNorm in a training network), weights frozen too."""
    layers, shape = case
    net, model = twins(layers, rng)
    for mine, its in zip(net.modules(), model.modules(), strict=True):
        mine.training = its.training = data.draw(st.booleans(), label="training")
    for mine, its in zip(net.parameters(), model.parameters(), strict=True):
        mine.requires_grad = its.requires_grad = data.draw(st.booleans(), label="requires_grad")
    x = rng.normal(size=shape)
    assert_same_run(net, model, x, rng, input_grad)
    assert_same_run(net, model, x + 1, rng, input_grad)  # accumulates; statistics move on


@given(rngs())
def test_a_layer_used_twice_is_torchs(rng):

    def tied(library, dtype):
        layers = library.Linear(3, 3, dtype=dtype), library.BatchNorm1d(3, dtype=dtype)
        return library.Sequential(*layers, library.Sigmoid(), *layers)

    net, model = tied(npbn, np.float64), tied(nn, torch.float64)
    copy_to_torch(net, model)
    assert len(net) == 5
    assert_same_run(net, model, rng.normal(size=(4, 3)), rng)


def test_an_empty_sequential_hands_input_and_gradient_through():
    net = npbn.Sequential()
    x, grad_output = np.random.default_rng(0).normal(size=(2, 3, 2))
    np.testing.assert_array_equal(net(x), x)
    np.testing.assert_array_equal(net.backward(grad_output), grad_output)
    np.testing.assert_array_equal(net.predict(x), x)
    assert net(x.tolist()).shape == (3, 2)
    assert net.backward(grad_output, input_grad=False) is None
    assert net.state_dict() == {}


@given(cases(), rngs())
def test_without_input_grad_the_parameters_get_the_same_gradients(case, rng):
    layers, shape = case
    net, _ = twins([("Flatten", {"start_dim": 2}), ("ReLU", {}), ("Identity", {}), *layers], rng)
    other = copy.deepcopy(net)
    x = rng.normal(size=shape)
    grad_output = rng.normal(size=net(x).shape)
    other(x)
    assert net.backward(grad_output).shape == shape
    assert other.backward(grad_output, input_grad=False) is None
    for mine, its in zip(net.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(mine.grad, its.grad)


class Spy(npbn.Module):
    """Hand everything through and note whether a gradient of the input was asked for."""

    def __init__(self, learnt):
        self.asked = []
        self.weight = npbn.Parameter(np.zeros(1)) if learnt else None

    def _apply(self, x, predict):
        return x, None

    def _backward(self, grad_output, cache, input_grad):
        self.asked.append(input_grad)
        return grad_output if input_grad else None


def test_without_input_grad_nothing_is_computed_in_front_of_the_first_parameter():
    front, first, behind, last = spies = [Spy(False), Spy(True), Spy(False), Spy(True)]
    inner = npbn.Sequential(npbn.Identity(), first, behind)
    net = npbn.Sequential(front, npbn.Sequential(npbn.ReLU()), inner, last)
    x = np.array([0.5])
    net(x)
    net.backward(x, input_grad=False)
    assert [spy.asked for spy in spies] == [[], [False], [True], [True]]
    net(x)
    net.backward(x)
    assert [spy.asked for spy in spies] == [[True], [False, True], [True, True], [True, True]]


def test_a_wrong_input_is_refused_at_the_first_layer_and_changes_nothing():
    net = npbn.Sequential(npbn.Linear(3, 2), npbn.BatchNorm1d(2)).double()
    before = net.state_dict()
    for wrong in (np.zeros((4, 2)), np.zeros((4, 3), np.float32), np.zeros((4, 3), int)):
        with pytest.raises(
            (npbn.errors.ShapeError, npbn.errors.DtypeError), match=r"Linear\(3, 2\)"
        ):
            net(wrong)
    assert all((net.state_dict()[key] == before[key]).all() for key in before)
    with pytest.raises(npbn.errors.BackwardError):
        net.backward(np.zeros((4, 2)))
