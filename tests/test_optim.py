"""SGD, against torch.optim.SGD, step by step."""

import copy
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import LAYOUTS, array, assert_same_bits, assert_within, quantum, tensor
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

import npbn
from npbn.errors import StateDictError

pytestmark = pytest.mark.usefixtures("engine")

DTYPES = [np.float32, np.float64]
# At most, of any term in one step: lr, momentum, dampening and weight decay cast to the dtype,
# and a product and a sum with each.
ROUNDINGS = 12


@st.composite
def group_options(draw):
    """Draw options of one parameter group, nesterov only where it is allowed."""
    rates = st.just(0.0) | st.floats(0, 1)
    options = {"lr": draw(rates), "weight_decay": draw(rates), "momentum": draw(rates)}
    options["dampening"] = draw(st.just(0.0) | st.floats(-1, 1))
    options["maximize"] = draw(st.booleans())
    if options["momentum"] > 0 and options["dampening"] == 0:
        options["nesterov"] = draw(st.booleans())
    return options


@st.composite
def runs(draw, steps=4):
    """Draw groups (options and initial values), and for each step rates and gradients.

    A step's gradients are one for each parameter, or None.
    """
    dtype = draw(st.sampled_from(DTYPES))
    numbers = st.floats(-10, 10, width=32)
    shapes = array_shapes(min_dims=0, max_dims=2, max_side=3)
    values = st.lists(arrays(dtype, shapes, elements=numbers), min_size=1, max_size=2)
    groups = draw(st.lists(st.tuples(group_options(), values), min_size=1, max_size=3))
    parameters = [value for _, values in groups for value in values]
    gradients = st.tuples(
        *(st.none() | arrays(dtype, value.shape, elements=numbers) for value in parameters)
    )
    rates = st.lists(st.floats(0, 1), min_size=len(groups), max_size=len(groups))
    changes = draw(st.lists(st.tuples(rates, gradients), min_size=steps, max_size=steps))
    return groups, changes


def npbn_sgd(groups):
    groups = [
        {**options, "params": [npbn.Parameter(value.copy()) for value in values]}
        for options, values in groups
    ]
    return npbn.SGD(groups)


def torch_sgd(groups):
    groups = [
        {**options, "params": [tensor(value, requires_grad=True) for value in values]}
        for options, values in groups
    ]
    return torch.optim.SGD(groups)


def params(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def step(optimizer, rates, gradients):
    """Set rates and gradients and take a step; npbn's gradients are read-only."""
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    for parameter, grad in zip(params(optimizer), gradients, strict=True):
        if isinstance(optimizer, torch.optim.SGD):
            parameter.grad = tensor(grad)
        else:
            parameter.grad = None if grad is None else grad.copy()
            if grad is not None:
                parameter.grad.flags.writeable = False
    optimizer.step()
    for parameter, grad in zip(params(optimizer), gradients, strict=True):
        if grad is not None:
            assert_same_bits(np.asarray(parameter.grad), grad, "gradient after the step")


class Bounds:
    """What rounding may do to parameters and momentum buffers.

    All the optimiser does is products and sums, so that each number is a sum of products of
    inputs, every one of them rounded at most ROUNDINGS times a step: both sides are within
    steps x ROUNDINGS x unit roundoff of the sum of absolute values, which is what the same rule
    gives with absolute values throughout. eps is two units of roundoff, for two sides.
    """

    def __init__(self, groups):
        self.rules = [options for options, values in groups for _ in values]
        self.sizes = [len(values) for _, values in groups]
        self.values = [np.abs(v.astype(np.float64)) for _, values in groups for v in values]
        self.buffers = [None] * len(self.values)
        self.steps, self.dtype = 0, groups[0][1][0].dtype

    def step(self, rates, gradients):
        self.steps += 1
        rates = np.repeat(rates, self.sizes)
        for i, (rule, lr, grad) in enumerate(zip(self.rules, rates, gradients, strict=True)):
            if grad is None:
                continue
            change = np.abs(grad.astype(np.float64)) + rule["weight_decay"] * self.values[i]
            buffer = change
            if self.buffers[i] is not None:
                # 1 - dampening is a difference too: of 1 and |dampening|, absolute values.
                buffer = rule["momentum"] * self.buffers[i] + (1 + abs(rule["dampening"])) * change
            self.buffers[i] = buffer
            if rule["momentum"]:
                change = change + rule["momentum"] * buffer if rule.get("nesterov") else buffer
            self.values[i] = self.values[i] + lr * change

    def around(self, magnitude):
        unit = self.steps * ROUNDINGS * np.finfo(self.dtype).eps
        return unit * magnitude + self.steps * ROUNDINGS * quantum(self.dtype)

    def check(self, mine, its):
        buffers = [mine.state.get(p, {}).get("momentum_buffer") for p in params(mine)]
        its_buffers = [its.state.get(p, {}).get("momentum_buffer") for p in params(its)]
        for i, (parameter, expected) in enumerate(zip(params(mine), params(its), strict=True)):
            assert parameter.dtype == self.dtype
            assert_within(
                parameter.data, np.asarray(expected.data), self.around(self.values[i]), "value"
            )
            assert (buffers[i] is None) == (its_buffers[i] is None)
            if buffers[i] is not None:
                bound = self.around(self.buffers[i])
                assert_within(buffers[i], np.asarray(its_buffers[i]), bound, "buffer")
                assert buffers[i].dtype == self.dtype


@given(runs())
def test_every_option_is_torchs(run):
    groups, steps = run
    mine, its, bounds = npbn_sgd(groups), torch_sgd(groups), Bounds(groups)
    for rates, gradients in steps:
        for side in (mine, its):
            step(side, rates, gradients)
        bounds.step(rates, gradients)
        bounds.check(mine, its)


# -- the engines ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "read only"])
@pytest.mark.parametrize("dtype", [np.float16, *DTYPES])
@given(data=st.data(), options=group_options(), seed=st.integers(0, 2**32 - 1))
def test_the_engines_agree_in_any_layout_and_take_each_others_buffers(
    layout, dtype, data, options, seed
):
    """Steps by one engine or the other; both round as the bounds against torch say."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(seed)
    grad_layout = data.draw(st.sampled_from([layout, *LAYOUTS]))
    values = rng.normal(size=(2, 3, 4, 5)).astype(dtype)
    groups = [(options, [values])]
    expected, bounds = npbn_sgd(groups), Bounds(groups)
    mine = npbn.SGD([npbn.Parameter(LAYOUTS[layout](values.copy()))], **options)
    (parameter,) = params(mine)
    memory, strides = parameter.data, parameter.data.strides
    for name in rng.choice(["numpy", "numba"], 4):
        grad = rng.normal(size=values.shape).astype(dtype)
        with npbn.using_engine("numpy"):
            step(expected, [options["lr"]], [grad])
        parameter.grad = LAYOUTS[grad_layout](grad)
        with npbn.using_engine(name):
            mine.step()
        bounds.step([options["lr"]], [grad])
    bounds.check(mine, expected)
    assert parameter.data is memory
    assert parameter.data.strides == strides


@given(options=group_options())
def test_nan_and_infinity_are_the_same_by_both_engines(options):
    pytest.importorskip("numba")
    specials = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan])
    values, grad = (a.ravel() for a in np.meshgrid(specials, specials))
    results = []
    for name in ("numpy", "numba"):
        optimizer = npbn_sgd([(options, [values])])
        with npbn.using_engine(name):
            for upstream in (grad, grad[::-1], grad):
                step(optimizer, [options["lr"]], [upstream])
        results.append(params(optimizer)[0].data)
    mine, theirs = (np.where(np.isfinite(result), 0, result) for result in results)
    np.testing.assert_array_equal(mine, theirs)


def test_a_large_parameter_is_the_same_for_any_number_of_threads():
    """512 KB are shared out among the threads; the weight of a Linear lies in Fortran order."""
    rng = np.random.default_rng(0)
    values, grad = rng.normal(size=(2, 301, 501)).astype(np.float32)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}
    threads, results = npbn.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            npbn.set_num_threads(count)
            p = npbn.Parameter(np.array(values, order="F"))
            optimizer = npbn.SGD([p], **options)
            for _ in range(2):
                p.grad = np.asfortranarray(grad)
                optimizer.step()
            results.append((p.data, optimizer.state[p]["momentum_buffer"]))
    finally:
        npbn.set_num_threads(threads)
    for mine in results[1:]:
        for array_, expected in zip(mine, results[0], strict=True):
            assert_same_bits(array_, expected)
            assert array_.flags.f_contiguous


def test_a_momentum_buffer_lies_as_its_parameter_and_goes_on_in_place():
    p = npbn.Parameter(np.array([[1.0, 2.0], [3.0, 4.0]], order="F"))
    optimizer = npbn.SGD([p], lr=0.1, momentum=0.5, dampening=0.5)
    p.grad = np.array([[1.0, 2.0], [3.0, 4.0]])
    optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"]
    np.testing.assert_array_equal(buffer, p.grad)  # the first step knows no dampening
    assert buffer.strides == p.data.strides
    assert not np.shares_memory(buffer, p.grad)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"] is buffer
    np.testing.assert_array_equal(buffer, p.grad)


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


def test_step_updates_in_place_and_zero_grad_forgets():
    p = parameter(3)
    data, grad = p.data, np.array([1.0, 2.0, 3.0])
    p.grad = grad
    optimizer = npbn.SGD(iter([p]), lr=0.5)
    optimizer.step()
    assert p.data is data
    np.testing.assert_array_equal(data, [0.5, 0, -0.5])
    assert p.grad is grad
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()
    np.testing.assert_array_equal(data, [0.5, 0, -0.5])


def test_step_raises_no_floating_point_warnings_and_nan_and_inf_are_data():
    p = npbn.Parameter(np.array([3e38, 1.0, 1e-38], np.float32))
    its = tensor(p.data, requires_grad=True)
    options = {"lr": 10, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer, its_optimizer = npbn.SGD([p], **options), torch.optim.SGD([its], **options)
    for expected in ([np.inf, np.nan], [np.nan, np.nan]):
        p.grad = np.array([-3e38, np.nan, 1e-45], np.float32)
        its.grad = tensor(p.grad)
        with np.errstate(all="raise"):
            optimizer.step()
        its_optimizer.step()
        np.testing.assert_array_equal(p.data[:2], expected)
        np.testing.assert_array_equal(array(its)[:2], expected)


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


def with_options(**options):
    return lambda state: state["param_groups"][1].update(options)


NO_NUMBERS = (StateDictError, TypeError, ValueError)


@pytest.mark.parametrize(
    ("change", "error"),
    {
        "a group less": (lambda state: state["param_groups"].pop(), StateDictError),
        "a parameter less": (lambda s: s["param_groups"][0]["params"].pop(), StateDictError),
        "a buffer too large": (with_buffer(0, np.ones(3)), StateDictError),
        "a buffer that would broadcast": (with_buffer(1, np.ones(3)), StateDictError),
        "a buffer of no parameter": (with_buffer(7, np.ones(2)), StateDictError),
        "a buffer of objects": (with_buffer(0, np.array([None, None])), NO_NUMBERS),
        "a buffer of strings": (with_buffer(0, np.array(["a", "b"])), NO_NUMBERS),
        "a negative rate": (with_options(lr=-1), ValueError),
        "nesterov without momentum": (with_options(nesterov=True), ValueError),
    }.values(),
)
def test_a_failed_load_changes_nothing(change, error):
    optimizer, donor = trained(), trained()
    state = copy.deepcopy(donor.state_dict())
    state["state"][1]["momentum_buffer"] += 1  # valid, and not to be taken over
    state["param_groups"][0]["lr"] = 77
    change(state)
    before = optimizer.state_dict()
    with pytest.raises(error):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    for number, saved in before["state"].items():
        assert_same_bits(after["state"][number]["momentum_buffer"], saved["momentum_buffer"])
