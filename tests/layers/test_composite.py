"""Layers that a user writes: their numbers, copies, and what they lack."""

import copy
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import assert_same_bits, rngs, tensor
from hypothesis import given
from torch import nn

import npbn
from npbn.errors import BackwardError
from npbn.torch_reference import copy_to_torch


class Residual(npbn.Module):
    """y = scale · x + inner(x): a parameter of its own and a network inside."""

    def __init__(self, inner):
        self.scale = npbn.Parameter(np.full(1, 0.5))
        self.inner = inner

    def _apply(self, x, predict):
        y, cache = self.inner._apply(x, predict)
        return self.scale.data * x + y, (x, cache)

    def _backward(self, grad_output, cache, input_grad):
        x, inner_cache = cache
        self.scale.accumulate((grad_output * x).sum(keepdims=True).reshape(1))
        grad_input = self.inner._backward(grad_output, inner_cache, input_grad)
        return grad_input + self.scale.data * grad_output if input_grad else None


class TorchResidual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))
        self.inner = inner

    def forward(self, x):
        return self.scale * x + self.inner(x)


# -- copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["copy", "pickle"],
)
def test_a_copy_has_the_state_but_nothing_waiting_and_the_original_is_untouched(duplicate):
    net = npbn.Sequential(block=Residual(npbn.Sequential(npbn.Linear(3, 3), npbn.BatchNorm1d(3))))
    net.double().again = net.block  # shared
    net.block.inner[1].eval()
    twin = copy.deepcopy(net)
    x, grad_output = np.random.default_rng(0).normal(size=(2, 4, 3))
    net(x), twin(x)
    other = duplicate(net)

    assert repr(other) == repr(net)
    assert other.again is other.block
    assert [m.training for m in other.modules()] == [m.training for m in net.modules()]
    for key, value in net.state_dict().items():
        assert_same_bits(other.state_dict()[key], value)
    with pytest.raises(BackwardError):
        other.backward(grad_output)

    before = net.state_dict()
    run_of_other = other.train()(x)
    other.backward(grad_output)
    for parameter in other.parameters():
        parameter.data += 1
    assert run_of_other.shape == x.shape
    assert all(parameter.grad is None for parameter in net.parameters())
    for key, value in net.state_dict().items():
        assert_same_bits(value, before[key])
    assert_same_bits(net.backward(grad_output), twin.backward(grad_output))


# -- modules that a user writes -------------------------------------------------------------


@given(rngs(), st.booleans(), st.booleans())
def test_a_composite_module_inside_a_sequential_is_torchs(rng, training, input_grad):
    """float64; 2^-40 is 4,000 roundings of the largest number, where each sees about 100."""
    layers = [npbn.Linear(3, 3, rng=rng), npbn.BatchNorm1d(3), npbn.Sigmoid()]
    net = npbn.Sequential(
        Residual(npbn.Sequential(*layers)), npbn.Linear(3, 2, rng=rng), Residual(npbn.Sigmoid())
    ).double()
    its_layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sigmoid())
    model = nn.Sequential(
        TorchResidual(its_layers), nn.Linear(3, 2), TorchResidual(nn.Sigmoid())
    ).double()
    copy_to_torch(net, model)

    for _ in range(2):
        x, grad_output = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
        its_x = tensor(x, requires_grad=True)
        y, its_y = net.train(training)(x), model.train(training)(its_x)
        grad_input = net.backward(grad_output, input_grad)
        its_y.backward(tensor(grad_output))
        pairs = [(y, its_y.detach()), (net.predict(x), model.eval()(its_x).detach())]
        pairs += [(grad_input, its_x.grad)] if input_grad else []
        pairs += [
            (mine.grad, its.grad)
            for mine, its in zip(net.parameters(), model.parameters(), strict=True)
        ]
        pairs += zip(net.state_dict().values(), model.state_dict().values(), strict=True)
        largest = max(float(its.abs().max()) for _, its in pairs)
        for mine, its in pairs:
            np.testing.assert_allclose(mine, its.numpy(), rtol=0, atol=2**-40 * max(1, largest))
        assert input_grad or grad_input is None


def test_a_module_without_a_computation_says_what_it_lacks():
    with pytest.raises(TypeError, match="Module defines no _apply"):
        npbn.Module()(np.zeros(2))
