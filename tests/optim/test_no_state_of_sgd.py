"""What is no state of SGD is refused, in one kind of error, and nothing has changed.

Adam's state was taken without a word, other things ended in KeyError, TypeError or AttributeError.
"""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch

import npbn
from npbn.errors import StateDictError

OTHERS = ["Adam", "AdamW", "NAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD", "Adamax"]


def trained(momentum=0.5):
    parameters = [npbn.Parameter(np.ones(2)), npbn.Parameter(np.ones((2, 3)))]
    optimizer = npbn.SGD(parameters, lr=0.25, momentum=momentum)
    for parameter in parameters:
        parameter.grad = np.full(parameter.shape, 3.0)
    optimizer.step()
    return optimizer


def saved_by(name, steps=1):
    parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, 3))]
    optimizer = getattr(torch.optim, name)(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(steps):
        optimizer.step()
    return optimizer.state_dict()


def changed(**changes):
    return {**trained().state_dict(), **changes}


def group(**changes):
    mine = trained().state_dict()["param_groups"][0]
    return changed(param_groups=[{**mine, **changes}])


def without(name):
    mine = trained().state_dict()["param_groups"][0]
    return changed(param_groups=[{key: value for key, value in mine.items() if key != name}])


NO_STATES = {
    "None": None,
    "a number": 5,
    "a list": [],
    "nothing": {},
    "an array": np.ones(3),
    "a network's": npbn.MLP(2, 3, 4).state_dict(),
    "no groups": {"state": {}},
    "no state": {"param_groups": []},
    "groups as a dict": changed(param_groups={}),
    "groups of None": changed(param_groups=[None]),
    "groups of lists": changed(param_groups=[[0, 1]]),
    "state as a list": changed(state=[]),
    "state of lists": changed(state={0: [1]}),
    "state of None": changed(state={0: None}),
    "a buffer of None's name": changed(state={None: {"momentum_buffer": np.ones(2)}}),
    "another's buffers": changed(state={0: {"exp_avg": np.ones(2)}}),
    "no params": without("params"),
    "no rate": without("lr"),
    "no momentum": without("momentum"),
    "params None": group(params=None),
    "params a number": group(params=2),
    "params of lists": group(params=[[0], [1]]),
    "params twice": group(params=[0, 0]),
    "rate None": group(lr=None),
    "rate a word": group(lr="fast"),
    "rate two numbers": group(lr=np.ones(2)),
    "momentum a dict": group(momentum={}),
    **{
        f"{option} {value!r}": group(**{option: value})
        for option, values in {
            "lr": ["0.1", b"1", -1, float("nan"), 10**400],
            "momentum": ["0", -0.5],
            "dampening": ["0"],
            "weight_decay": [-1e-9, 1j],
            "nesterov": ["yes", "0", None],
            "maximize": ["", "1"],
        }.items()
        for value in values
    },
}


@pytest.mark.parametrize("name", [*NO_STATES, *OTHERS])
def test_what_is_no_state_of_sgd_is_refused_and_changes_nothing(name):
    state = saved_by(name) if name in OTHERS else copy.deepcopy(NO_STATES[name])
    optimizer = trained()
    before = optimizer.state_dict()
    with pytest.raises(StateDictError, match=r"^SGD\.load_state_dict: (param_groups: )?expected "):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    for number, saved in before["state"].items():
        assert np.array_equal(after["state"][number]["momentum_buffer"], saved["momentum_buffer"])


@pytest.mark.parametrize("name", OTHERS)
def test_another_optimizers_state_before_its_first_step_is_refused_too(name):
    with pytest.raises(StateDictError, match="expected groups with the options of SGD"):
        trained().load_state_dict(saved_by(name, steps=0))


def test_a_parameter_without_a_buffer_has_made_no_step():
    optimizer, buffer = trained(), {"momentum_buffer": np.ones((2, 3))}
    for nothing in ({}, {"momentum_buffer": None}):
        optimizer.load_state_dict(changed(state={0: nothing, 1: buffer}))
        assert optimizer.state_dict()["state"].keys() == {1}


def test_the_option_that_is_wrong_is_named():
    for option in ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"):
        with pytest.raises(StateDictError, match=f"expected a number as {option}, got 'a'"):
            trained().load_state_dict(group(**{option: "a"}))


def test_torchs_state_is_taken_from_any_version_and_with_a_tensor_as_rate():
    state = saved_by("SGD")
    optimizer = trained()
    old = {key: value for key, value in state["param_groups"][0].items() if key != "maximize"}
    old["lr"] = torch.tensor(0.5)
    state = OrderedDict(state=state["state"], param_groups=[old], added_later=1)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert type(optimizer.param_groups[0]["lr"]) is float
    assert optimizer.param_groups[0]["momentum"] == 0
    assert optimizer.state == {}


def test_a_buffer_beyond_the_dtype_is_infinite_without_a_warning():
    parameter = npbn.Parameter(np.ones(2, np.float32))
    optimizer = npbn.SGD([parameter], lr=0.1, momentum=0.9)
    state = {**optimizer.state_dict(), "state": {0: {"momentum_buffer": np.full(2, 1e300)}}}
    with np.errstate(all="raise"):
        optimizer.load_state_dict(state)
    assert np.isposinf(optimizer.state[parameter]["momentum_buffer"]).all()
