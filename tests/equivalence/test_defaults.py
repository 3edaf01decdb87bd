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


def test_the_function_without_checks_has_those_of_the_one_with_them():
    checked = defaults(functional.batch_norm)
    assert defaults(functional.batch_norm_forward).items() <= checked.items()
