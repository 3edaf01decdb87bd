"""The textbook BatchNorm, of which the mutants are made, is right."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers import LAYOUTS, batch, batch_shapes
from hypothesis import given
from hypothesis import strategies as st

from npbn.testing import oracle, tolerances
from npbn.testing.case import Case, Setup, Step
from npbn.testing.protocol import class_implementation
from npbn.testing.textbook import TextbookBatchNorm

# -- what a class does wrong --------------------------------------------------------------------


def fault(cls, case):
    """Return the first thing that `cls` does wrong on a case, or None."""
    make, setup = class_implementation(cls).make, case.setup
    layer, other = make(setup), make(setup)
    returned = []  # arrays, and what their owner, the caller, wrote into them
    for number, step in enumerate(case.steps):
        before = step.x.tobytes(), step.grad_output.tobytes()
        try:
            y = layer.forward(step.x, step.training)
            other.forward(2 * step.x + 1, step.training)
            output = y.copy()
            y[...] = number
            gradients = layer.backward(step.grad_output)
        except Exception as error:
            return f"raises {error!r}"
        if before != (step.x.tobytes(), step.grad_output.tobytes()):
            return "changes its inputs"
        statistics = layer.running_mean, layer.running_var
        exact = oracle.step(setup, step)
        problem = difference(setup, step, exact, (output, *gradients, *statistics))
        if problem:
            return problem
        if setup.tracks and layer.num_batches_tracked != exact.num_batches_tracked:
            return f"counts {layer.num_batches_tracked}, not {exact.num_batches_tracked}"
        if setup.tracks:
            setup = replace(
                setup,
                running_mean=layer.running_mean.copy(),
                running_var=layer.running_var.copy(),
                num_batches_tracked=layer.num_batches_tracked,
            )
        gradients[0][...] = number
        returned += [(y, number), (gradients[0], number)]
    if any((array != written).any() for array, written in returned):
        return "writes into what it returned"
    return None


@np.errstate(over="ignore")  # what may not change at all is off by any number of times
def difference(setup, step, exact, results):
    """Say which result is off by more than a right implementation may lose, or None."""
    allowed = tolerances.correct(setup, step, exact)
    absent = {
        "grad_weight": setup.weight is None,
        "grad_bias": setup.bias is None,
        "running_mean": not setup.tracks,
        "running_var": not setup.tracks,
    }
    for name, result in zip(allowed._fields, results, strict=True):
        if absent.get(name) or result is None:
            if not (absent.get(name) and result is None):
                return f"{name}: {result}"
            continue
        expected, bound = getattr(exact, name), getattr(allowed, name)
        dtype = step.x.dtype if name in ("y", "grad_input") else setup.dtype
        if (result.shape, result.dtype) != (expected.shape, dtype):
            return f"{name}: {result.shape} {result.dtype}"
        error = np.abs(result.astype(np.float64) - expected)
        if not (error <= bound).all():
            return f"{name}: off by {np.max(error / bound):.3g} times what may be lost"
    return None


def refusal_fault(cls, tracks, training):
    """Return what `cls` does wrong of refusing one value per channel, or None."""
    setup = make_case((1, 3), tracks=tracks).setup
    layer = class_implementation(cls).make(setup)
    try:
        layer.forward(np.ones((1, 3), np.float32), training)
    except ValueError:
        pass
    else:
        return "takes one value per channel"
    if tracks and layer.num_batches_tracked != setup.num_batches_tracked:
        return "counts what it refuses"
    for name in ("running_mean", "running_var") if tracks else ():
        if (getattr(layer, name) != getattr(setup, name)).any():
            return f"changes {name} before it refuses"
    return None


def nan_fault(cls):
    """Return what `cls` does wrong of a NaN in the first of two channels, or None."""
    case = make_case((4, 2, 3))
    layer = class_implementation(cls).make(case.setup)
    x = case.steps[0].x.copy()
    x[1, 0, 2] = np.nan
    y = layer.forward(x, True)
    for name, values in {"y": y.swapaxes(0, 1), "running_mean": layer.running_mean}.items():
        if not (np.isnan(values[0]).all() and np.isfinite(values[1]).all()):
            return f"{name}: {values}"
    return None


# -- what it is tried on ------------------------------------------------------------------------


def make_case(
    shape,
    *,
    dtype=np.float32,
    seed=0,
    mean_to_std=0.5,
    std=1.0,
    eps=1e-5,
    momentum=0.1,
    weight=True,
    bias=True,
    tracks=True,
    tracked=0,
    training=(True, True, False),
    layout="contiguous",
):
    """Return a case of several steps whose numbers are all drawn, the upstream gradient too."""
    rng, channels = np.random.default_rng(seed), shape[1]
    parameters = np.dtype(np.float32 if dtype == np.float16 else dtype)

    def vector(low, high, present):
        return rng.uniform(low, high, channels).astype(parameters) if present else None

    setup = Setup(
        num_features=channels,
        eps=eps,
        momentum=momentum,
        weight=vector(-2, 2, weight),
        bias=vector(-2, 2, bias),
        running_mean=vector(-2, 2, tracks),
        running_var=vector(0.5, 3, tracks),
        num_batches_tracked=tracked if tracks else 0,
        dtype=parameters,
    )
    scales = np.full(channels, mean_to_std), np.full(channels, std)

    def step(mode):
        x, grad_output = batch(rng, shape, dtype, scales), rng.normal(size=shape).astype(dtype)
        return Step(LAYOUTS[layout](x), mode, LAYOUTS[layout](grad_output))

    return Case(setup, tuple(step(mode) for mode in training))


CASES = {
    "rank 2": make_case((8, 3)),
    "rank 3": make_case((3, 2, 5), mean_to_std=3, momentum=0.7, tracked=4),
    "rank 4": make_case((2, 3, 3, 2)),
    "rank 5": make_case((2, 2, 2, 1, 3)),
    "one image": make_case((1, 3, 4, 4)),
    "float64": make_case((6, 4, 2), dtype=np.float64),
    "float16": make_case((4, 2, 3), dtype=np.float16),
    "float16, sum over 65504": make_case((32, 2, 4), dtype=np.float16, mean_to_std=10, std=300),
    "variance near eps": make_case((8, 3), std=0.05, eps=1e-3),
    "large mean": make_case((8, 3), mean_to_std=3e4),
    "no weight": make_case((8, 3), weight=False),
    "no bias": make_case((8, 3), bias=False),
    "no weight, no bias": make_case((8, 3), weight=False, bias=False),
    "no running statistics": make_case((8, 3), tracks=False),
    "momentum None": make_case((8, 3), momentum=None, training=(True, True, True)),
    "momentum 0": make_case((8, 3), momentum=0.0, tracked=2),
    "fortran": make_case((5, 3, 4), layout="fortran"),
    "strided": make_case((5, 3, 4), layout="strided"),
    "negative strides": make_case((5, 3, 4), layout="negative strides"),
    "read only": make_case((5, 3, 4), layout="read only"),
    "empty": make_case((0, 3, 4), training=(True, False, True)),
    "one value in evaluation": make_case((1, 3), training=(False,)),
}
CHECKS = {
    **{name: partial(fault, case=case) for name, case in CASES.items()},
    "refuses one value": partial(refusal_fault, tracks=True, training=True),
    "refuses one value, untracked": partial(refusal_fault, tracks=False, training=False),
    "NaN": nan_fault,
}


@st.composite
def drawn_cases(draw):
    """Cases of any rank, options, dtype and layout."""
    momentum = draw(st.sampled_from([None, 0.0, 0.1, 1.0, 1.5, -0.2]))
    # A momentum outside [0, 1] can make running_var negative, and evaluation NaN.
    modes = st.just(True) if momentum in (1.5, -0.2) else st.booleans()
    return make_case(
        draw(batch_shapes(ranks=(2, 3, 4, 5))),
        dtype=draw(st.sampled_from([np.float16, np.float32, np.float64])),
        seed=draw(st.integers(0, 2**32 - 1)),
        mean_to_std=draw(st.sampled_from([0, 1, -30])),
        std=draw(st.sampled_from([0.01, 1, 100])),
        eps=draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        momentum=momentum,
        weight=draw(st.booleans()),
        bias=draw(st.booleans()),
        tracks=draw(st.booleans()),
        tracked=0 if momentum is None else draw(st.integers(0, 5)),
        training=draw(st.lists(modes, min_size=1, max_size=3)),
        layout=draw(st.sampled_from(sorted(LAYOUTS))),
    )


# -- tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_textbook_has_no_fault(check):
    assert check(TextbookBatchNorm) is None


@given(drawn_cases())
def test_the_textbook_has_no_fault_on_drawn_cases(case):
    assert fault(TextbookBatchNorm, case) is None
