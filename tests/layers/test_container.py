"""Sequential, against torch.nn.Sequential built from the same description."""

import copy
import math
import re
from collections import OrderedDict
from itertools import pairwise

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


def linears(*sizes):
    rng = np.random.default_rng(0)
    return [npbn.Linear(a, b, rng=rng) for a, b in pairwise(sizes)]


# -- names and indices ----------------------------------------------------------------------


def test_layers_by_position_are_numbered():
    assert list(npbn.Sequential(*linears(2, 3, 4)).state_dict()) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


@pytest.mark.parametrize("make", [npbn.Sequential, lambda **named: npbn.Sequential(named)])
def test_layers_by_keyword_or_from_a_mapping_keep_their_names_and_order(make):
    second, first = linears(2, 3, 4)
    net = make(second=second, relu=npbn.ReLU(), first=first)
    assert [name for name, _ in net.named_children()] == ["second", "relu", "first"]
    assert list(net) == [second, net.relu, first]
    assert net.second is second


@given(count=st.integers(0, 6), data=st.data())
def test_indices_and_slices_are_a_lists(count, data):
    layers = [npbn.Identity() for _ in range(count)]
    net = npbn.Sequential(*layers)
    assert len(net) == count
    assert list(net) == layers
    index = data.draw(st.integers(-count - 2, count + 1))
    if -count <= index < count:
        assert net[index] is layers[index]
    else:
        with pytest.raises(IndexError):
            net[index]
    part = data.draw(st.slices(count))
    assert isinstance(net[part], npbn.Sequential)
    assert list(net[part]) == layers[part]
    its = nn.Sequential(*[nn.Identity() for _ in layers])[part]
    assert [name for name, _ in net[part].named_children()] == [
        name for name, _ in its._modules.items()
    ]


def test_a_slice_shares_its_layers():
    net = npbn.Sequential(*linears(2, 3, 4))
    net[1:][0].weight.data[...] = 7
    assert (net[1].weight.data == 7).all()


def test_append_adds_at_the_end_and_returns_the_network():
    net = npbn.Sequential()
    first, second = linears(2, 3, 4)
    assert net.append(first).append(second) is net
    assert list(net) == [first, second]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_extend_adds_several_at_the_end_and_returns_the_network():
    first, second, third = linears(2, 3, 4, 5)
    net = npbn.Sequential(first)
    assert net.extend(iter([second, third])) is net
    assert list(net) == [first, second, third]
    assert [name for name, _ in net.named_children()] == ["0", "1", "2"]


@pytest.mark.parametrize("make", [npbn.Sequential, lambda *layers: npbn.ModuleList(layers)])
def test_extend_refuses_all_if_it_refuses_one(make):
    net = make(npbn.ReLU())
    for layers, error in [([npbn.ReLU(), 3], TypeError), (5, TypeError)]:
        with pytest.raises(error):
            net.extend(layers)
        assert len(net) == 1
    taken = npbn.Sequential({"2": npbn.ReLU()})
    with pytest.raises(KeyError, match="'2' is taken"):
        taken.extend([npbn.ReLU(), npbn.ReLU()])
    assert len(taken) == 1


@pytest.mark.parametrize("index", [0, 1, -1, -2])
def test_an_item_is_replaced_in_its_place_and_under_its_name(index):
    def replaced(library):
        net = library.Sequential(OrderedDict(fc=library.Linear(2, 3), act=library.ReLU()))
        net[index] = library.Sigmoid()
        return repr(net)

    assert replaced(npbn) == replaced(nn)


def test_assignment_refuses_what_is_no_layer_or_no_place_and_changes_nothing():
    net = npbn.Sequential(npbn.ReLU())
    for index, layer, error in [(0, 3, TypeError), (1, npbn.ReLU(), IndexError)]:
        with pytest.raises(error):
            net[index] = layer
    assert repr(net) == "Sequential(\n  (0): ReLU()\n)"


class Block:
    """A block as a torch user writes it first: forward and backward, without _apply."""

    def forward(self, x):
        return self.fc(x)

    def backward(self, grad_output, input_grad=True):
        return self.fc.backward(grad_output, input_grad)


@pytest.mark.parametrize("kind", [npbn.Module, npbn.Linear])
@pytest.mark.parametrize("methods", [("forward", "backward"), ("backward",), ("forward",)])
def test_a_layer_with_forward_or_backward_of_its_own_is_refused_with_what_to_write(kind, methods):
    own = {name: vars(Block)[name] for name in methods}
    block = type("Block", (kind,), own)(*(2, 2) if kind is npbn.Linear else ())
    net = npbn.Sequential(npbn.ReLU())
    for add in (npbn.Sequential, net.append, lambda layer: net.__setitem__(0, layer)):
        with pytest.raises(TypeError, match=rf"a {methods[0]} of its own; .* _apply\(x, predict\)"):
            add(block)
    assert repr(net) == "Sequential(\n  (0): ReLU()\n)"


# -- ModuleList -----------------------------------------------------------------------------


class Stack(npbn.Module):
    """Runs the modules of a list, one after another."""

    def __init__(self, blocks):
        self.blocks = npbn.ModuleList(blocks)

    def _apply(self, x, predict):
        caches = []
        for block in self.blocks:
            x, cache = block._apply(x, predict)
            caches.append(cache)
        return x, caches

    def _backward(self, grad_output, cache, input_grad):
        for block, inner in zip(reversed(list(self.blocks)), reversed(cache), strict=True):
            grad_output = block._backward(grad_output, inner, True)
        return grad_output


@given(rngs(), st.integers(0, 4))
def test_the_modules_of_a_list_are_registered_and_learn(rng, count):
    layers = [layer for _ in range(count) for layer in (npbn.Linear(3, 3), npbn.BatchNorm1d(3))]
    stack, twin = Stack(layers).double(), npbn.Sequential(*copy.deepcopy(layers)).double()
    expected = [f"blocks.{key}" for key in twin.state_dict()]
    assert list(stack.state_dict()) == expected
    x, grad = rng.normal(size=(2, 5, 3))
    np.testing.assert_array_equal(stack(x), twin(x))
    np.testing.assert_array_equal(stack.backward(grad), twin.backward(grad))
    for mine, its in zip(stack.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(mine.grad, its.grad)


def test_a_module_list_is_torchs():
    def made(library):
        modules = library.ModuleList(library.Linear(n, 2) for n in (1, 2, 3))
        modules.append(library.ReLU()).extend([library.Sigmoid()])
        modules[1] = library.Identity()
        parts = [modules, modules[1:], modules[::2], modules[-1], library.ModuleList()]
        names = list(modules.state_dict()), list(modules[2:].state_dict())
        return [repr(part) for part in parts], len(modules), names, modules[0] in modules

    assert made(npbn) == made(nn)


def test_a_module_list_refuses_what_is_no_module_and_a_call():
    with pytest.raises(TypeError, match="ModuleList: expected a Module as layer '1', got 3"):
        npbn.ModuleList([npbn.ReLU(), 3])
    with pytest.raises(TypeError, match="ModuleList: expected its modules to be called"):
        npbn.ModuleList([npbn.ReLU()])(np.zeros(2))


@pytest.mark.parametrize("name", ["", ".", "a.b", "training", "forward", "append", "_apply"])
def test_a_name_that_is_taken_or_has_a_dot_is_refused(name):
    with pytest.raises(KeyError, match=re.escape(repr(name))):
        npbn.Sequential({name: npbn.ReLU()})


def test_append_refuses_a_name_in_use_and_changes_nothing():
    net = npbn.Sequential({"1": npbn.ReLU()})
    with pytest.raises(KeyError, match="1"):
        net.append(npbn.Identity())
    assert repr(net) == "Sequential(\n  (1): ReLU()\n)"


@pytest.mark.parametrize("what", [3, npbn.ReLU, None, "relu"])
def test_what_is_no_module_is_refused(what):
    with pytest.raises(TypeError, match="Module"):
        npbn.Sequential(npbn.ReLU(), what)
    with pytest.raises(TypeError, match="Module"):
        npbn.Sequential().append(what)


def test_layers_by_position_and_by_name_at_once_are_refused():
    with pytest.raises(TypeError, match="both"):
        npbn.Sequential(npbn.ReLU(), relu=npbn.ReLU())


# -- forward and backward -------------------------------------------------------------------


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
