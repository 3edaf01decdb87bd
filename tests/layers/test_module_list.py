"""ModuleList: its modules are registered and learn; torch's manners."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import rngs
from hypothesis import given
from torch import nn

import npbn


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
