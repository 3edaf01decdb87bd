"""Drawn runs of SGD in both libraries, and what rounding may do to them."""

import hypothesis.strategies as st
import numpy as np
import torch
from helpers import assert_same_bits, assert_within, quantum, tensor
from hypothesis.extra.numpy import array_shapes, arrays

import npbn

DTYPES = [np.float32, np.float64]
# At most, of any term in one step: lr, momentum, dampening and weight decay cast to the dtype,
# and a product and a sum with each.
ROUNDINGS = 12


@st.composite
def group_options(draw):
    """Draw options of one parameter group, nesterov only where it is allowed."""
    rates, nesterov = st.just(0.0) | st.floats(0, 1), draw(st.booleans())
    options = {"lr": draw(st.floats(0, 1)), "weight_decay": draw(rates), "nesterov": nesterov}
    options["momentum"] = draw(st.floats(0, 1, exclude_min=True) if nesterov else rates)
    options["dampening"] = 0.0 if nesterov else draw(st.just(0.0) | st.floats(-1, 1))
    options["maximize"] = draw(st.booleans())
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
    """Set rates and gradients and take a step, which leaves the gradients as they are."""
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    for parameter, grad in zip(params(optimizer), gradients, strict=True):
        if isinstance(optimizer, torch.optim.SGD):
            parameter.grad = tensor(grad)
        else:
            parameter.grad = None if grad is None else grad.copy()
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
