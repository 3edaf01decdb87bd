"""Options and parameter groups of SGD."""

import math

import numpy as np
import pytest
import torch

import npbn

# -- options and groups ---------------------------------------------------------------------


def parameter(*shape):
    return npbn.Parameter(np.ones(shape or 1))


def test_the_defaults_are_torchs():
    defaults = torch.optim.SGD([torch.zeros(1)]).defaults
    mine = npbn.SGD([parameter()]).defaults
    assert mine == {name: defaults[name] for name in mine}


def test_a_group_keeps_its_own_options_and_takes_the_rest_from_the_defaults():
    first, second, third = parameter(), parameter(), parameter()
    optimizer = npbn.SGD([{"params": [first], "lr": 0.5}, {"params": second}], lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": iter([third]), "momentum": 0})
    assert [(g["lr"], g["momentum"]) for g in optimizer.param_groups] == [
        (0.5, 0.9),
        (0.1, 0.9),
        (0.1, 0),
    ]
    assert [g["params"] for g in optimizer.param_groups] == [[first], [second], [third]]


def test_repr_shows_the_options_of_each_group():
    text = repr(
        npbn.SGD([{"params": [parameter()]}, {"params": [parameter()], "lr": 0.25}], lr=0.5)
    )
    assert text.startswith("SGD (\nParameter Group 0\n")
    assert "    lr: 0.25\n" in text.partition("Parameter Group 1")[2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -0.1}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"momentum": -0.1}, "momentum"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"nesterov": True}, "nesterov"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
    ],
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        npbn.SGD([parameter()], **options)
    optimizer = npbn.SGD([parameter()])
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group({"params": [parameter()], **options})
    assert len(optimizer.param_groups) == 1


def test_impossible_parameters_are_refused():
    p, layer = parameter(), npbn.Linear(2, 2)
    for wrong in ([], iter([])):
        with pytest.raises(ValueError, match="empty"):
            npbn.SGD(wrong)
    for twice in ([p, p], [{"params": [p]}, {"params": [p]}]):
        with pytest.raises(ValueError, match="twice"):
            npbn.SGD(twice)
    for wrong in ([layer], [p.data], [{"params": [p.data]}]):
        with pytest.raises(TypeError, match="Parameter"):
            npbn.SGD(wrong)
    for wrong in ({"params": [p], "rate": 1}, {"lr": 1}):
        with pytest.raises(ValueError, match="params"):
            npbn.SGD([wrong])
