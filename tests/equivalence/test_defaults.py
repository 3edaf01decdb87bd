"""What is left out of a call has torch's default."""

import ast
import inspect
import re

import pytest
import torch

import npbn
from npbn import functional, layers

HIDDEN = {"max_pool2d": "_max_pool2d"}  # the public name takes *args
OWN = {"dtype", "rng", "modules"}  # torch's is a setting of the process, or None
FUNCTIONS = [name for name in functional.__all__ if hasattr(torch.nn.functional, name)]
LAYERS = [name for name in layers.__all__ if hasattr(torch.nn, name)]


def defaults(function):
    """Return the defaults of a callable; those of torch's compiled functions are in their text."""
    try:
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    except ValueError:
        named = re.findall(r"(\w+)=([\w.]+)", function.__doc__.strip().splitlines()[0])
        return {name: ast.literal_eval(value) for name, value in named}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_a_function(name):
    compare(getattr(functional, name), getattr(torch.nn.functional, HIDDEN.get(name, name)))


@pytest.mark.parametrize("name", LAYERS)
def test_of_a_layer(name):
    compare(getattr(npbn, name), getattr(torch.nn, name))


def test_of_sgd():
    compare(npbn.SGD, torch.optim.SGD)


def compare(mine, its):
    mine, its = defaults(mine), defaults(its)
    for name in mine.keys() - OWN:
        assert mine[name] == its[name], name


def test_of_what_a_method_takes():
    mine, its = npbn.Module, torch.nn.Module
    for name in ("train", "zero_grad", "requires_grad_", "load_state_dict", "named_parameters"):
        compare(getattr(mine, name), getattr(its, name))
    compare(npbn.SGD.zero_grad, torch.optim.SGD.zero_grad)
    assert defaults(npbn.Parameter.zero_grad) == defaults(npbn.SGD.zero_grad)
    compare(npbn.Parameter.requires_grad_, torch.nn.Module.requires_grad_)


UNCHECKED = [name for name in functional.__all__ if f"{name}_forward" in functional.__all__]


@pytest.mark.parametrize("name", UNCHECKED)
def test_of_a_function_without_checks(name):
    """They are those of the function with checks."""
    forward = defaults(getattr(functional, f"{name}_forward"))
    checked = defaults(getattr(functional, name))
    assert forward.items() <= checked.items()
