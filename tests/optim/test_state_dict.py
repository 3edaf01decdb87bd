"""SGD's state goes to torch and comes from it; a load that fails changes nothing."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import array, assert_same_bits
from hypothesis import given
from optim.runs import Bounds, npbn_sgd, params, runs, step, torch_sgd

from npbn.errors import StateDictError

pytestmark = pytest.mark.usefixtures("engine")


def to_torch(state):
    """Return a state of npbn's with tensors for arrays, as torch takes it."""
    buffers = {
        number: {name: torch.from_numpy(value) for name, value in saved.items()}
        for number, saved in state["state"].items()
    }
    return {**state, "state": buffers}


@given(runs(), st.integers(0, 4))
def test_a_state_dict_takes_a_run_over_from_and_to_torch(run, at):
    """After `at` steps npbn's state goes to torch and torch's to npbn, and both go on."""
    groups, steps = run
    mine, its, bounds = npbn_sgd(groups), torch_sgd(groups), Bounds(groups)
    for rates, gradients in steps[:at]:
        for side in (mine, its):
            step(side, rates, gradients)
        bounds.step(rates, gradients)

    # New optimisers over copies of the values; every option is yet to be loaded.
    fresh = [({"lr": 0.5}, [array(p) for p in group["params"]]) for group in its.param_groups]
    other_mine, other_its = npbn_sgd(fresh), torch_sgd(fresh)
    other_mine.load_state_dict(its.state_dict())
    other_its.load_state_dict(to_torch(mine.state_dict()))
    for rates, gradients in steps[at:]:
        for side in (other_mine, other_its):
            step(side, rates, gradients)
        bounds.step(rates, gradients)
    bounds.check(other_mine, other_its)


@given(runs(), st.integers(0, 4))
def test_a_state_dict_takes_a_run_over_to_the_bit(run, at):
    groups, steps = run
    whole = npbn_sgd(groups)
    for rates, gradients in steps[:at]:
        step(whole, rates, gradients)
    state = whole.state_dict()
    rest = npbn_sgd(
        [({"momentum": 0.25}, [p.data for p in g["params"]]) for g in whole.param_groups]
    )
    rest.load_state_dict(state)
    for saved in state["state"].values():
        saved["momentum_buffer"][...] = np.nan  # the state is a copy, on both of its ways
    for rates, gradients in steps[at:]:
        step(whole, rates, gradients)
        step(rest, rates, gradients)
    for parameter, expected in zip(params(rest), params(whole), strict=True):
        assert_same_bits(parameter.data, expected.data)
    assert repr(rest) == repr(whole)


# -- loads that fail ------------------------------------------------------------------------


def trained():
    """Return an optimiser of two groups, with momentum buffers."""
    groups = [({"lr": 0.5, "momentum": 0.5}, [np.ones(2), np.ones((2, 3))]), ({}, [np.ones(1)])]
    optimizer = npbn_sgd(groups)
    rng = np.random.default_rng(0)
    step(optimizer, [0.1, 0.2], [rng.normal(size=p.shape) for p in params(optimizer)])
    return optimizer


def with_buffer(number, buffer):
    def change(state):
        state["state"][number] = {"momentum_buffer": buffer}

    return change


def another(state):
    return {**state["param_groups"][1], "params": []}


def with_options(**options):
    return lambda state: state["param_groups"][1].update(options)


@pytest.mark.parametrize(
    "change",
    {
        "a group less": lambda state: state["param_groups"].pop(),
        "a group more": lambda state: state["param_groups"].append(another(state)),
        "a parameter more": lambda state: state["param_groups"][1]["params"].append(3),
        "a parameter less": lambda state: state["param_groups"][0]["params"].pop(),
        "a buffer too large": with_buffer(0, np.ones(3)),
        "a buffer that would broadcast": with_buffer(1, np.ones(3)),
        "a buffer of no parameter": with_buffer(7, np.ones(2)),
        "a buffer of objects": with_buffer(0, np.array([None, None])),
        "a buffer of strings": with_buffer(0, np.array(["a", "b"])),
        "a negative rate": with_options(lr=-1),
        "nesterov without momentum": with_options(nesterov=True),
    }.values(),
)
def test_a_failed_load_changes_nothing(change):
    optimizer, donor = trained(), trained()
    state = copy.deepcopy(donor.state_dict())
    state["state"][1]["momentum_buffer"] += 1  # valid, and not to be taken over
    state["param_groups"][0]["lr"] = 77
    change(state)
    before = optimizer.state_dict()
    with pytest.raises(StateDictError, match=r"expected|nesterov"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    for number, saved in before["state"].items():
        assert_same_bits(after["state"][number]["momentum_buffer"], saved["momentum_buffer"])
