"""Checks with batches that must be refused, are empty or constant, or contain NaN or infinity."""

from dataclasses import replace
from typing import Any

import numpy as np

from npbn.testing import oracle
from npbn.testing.case import Case, Step
from npbn.testing.compare import (
    ConformanceError,
    Remark,
    follow,
    run_step,
)
from npbn.testing.names import GRADIENTS, PASSES, RUNNING, STATE
from npbn.testing.protocol import BatchNorm, Implementation

EVERYTHING = (*PASSES, *STATE)


def refuses_one_value(implementation: Implementation, case: Case) -> None:
    """Pass one value a channel, which has no variance: an error in training."""
    _refusal(implementation.make(case.setup), case.steps[0])


def refusal_changes_nothing(implementation: Implementation, case: Case) -> None:
    """Check statistics and counter after a refused batch."""
    layer = implementation.make(case.setup)
    before = _state(layer)
    _refusal(layer, case.steps[0])
    for name, value in _state(layer).items():
        if not np.array_equal(value, before[name]):
            raise ConformanceError(
                f"refusing a batch changed {name} from {before[name]} to {value}"
            )


def empty_batch(implementation: Implementation, case: Case) -> None:
    """Pass no values: an empty output, gradients of 0, and statistics as they were.

    NaN, the mean of nothing, is worth a remark and no error.
    """
    (step,) = case.steps
    reads = "running_statistics" not in implementation.unsupported
    found = run_step(implementation.make(case.setup), step, reads).results
    odd = [
        name
        for name in ("grad_weight", "grad_bias", *RUNNING)
        if isinstance(found.get(name), np.ndarray) and np.isnan(found[name]).any()
    ]
    if odd:
        raise Remark(f"an empty batch makes {' and '.join(odd)} NaN")
    follow(implementation, case, EVERYTHING, "correct")


def constant_channels(implementation: Implementation, case: Case) -> None:
    """Pass equal values, which have no deviation: the output is exactly the bias, or 0."""
    setup, (step,) = case.setup, case.steps
    y = implementation.make(setup).forward(step.given, step.training)
    bias = np.zeros(setup.num_features, y.dtype) if setup.bias is None else setup.bias
    expected = np.broadcast_to(bias.reshape(1, -1, *(1,) * (y.ndim - 2)), y.shape)
    if not np.array_equal(y, expected):
        raise ConformanceError(f"a constant channel gave {y[y != expected][0]!r}, not its bias")


def reach_the_output(implementation: Implementation, case: Case) -> None:
    """Pass a NaN: its channel becomes NaN in training, the element alone in evaluation."""
    (step,) = case.steps
    exact = oracle.step(case.setup, step).y  # of the finite original: what does not depend on it
    for odd in (np.nan, np.inf):
        y = implementation.make(case.setup).forward(_with(step, odd).given, step.training)
        if step.training and not np.isnan(y[:, 0]).all():
            raise ConformanceError(f"{odd} in training should make its channel NaN, got {y[:, 0]}")
        if not step.training and np.isfinite(y.reshape(len(y), y.shape[1], -1)[0, 0, 0]):
            raise ConformanceError(f"{odd} in evaluation should reach the output, got {y[0, 0]}")
        _unless_untouched(f"{odd} in x", "y", y, exact, 0 if step.training else None)


def reach_the_rest(implementation: Implementation, case: Case) -> None:
    """Pass a NaN in x: it reaches every result of its channel, and no other."""
    (step,) = case.steps
    reads = "running_statistics" not in implementation.unsupported
    exact = oracle.step(case.setup, step, implementation.convention)
    for odd in (np.nan, np.inf):
        layer = implementation.make(case.setup)
        found = run_step(layer, _with(step, odd), reads).results
        of_it = {"grad_weight"}
        if step.training:
            of_it |= {"grad_input", *RUNNING}
            if implementation.convention.moves_in == "backward" and step.grad_output is None:
                of_it -= set(RUNNING)
        for name in set(found) & {*GRADIENTS, *RUNNING}:
            value, wanted = found[name], getattr(exact, name)
            if name in RUNNING:  # NaN alone is looked for: the numbers are another behaviour's
                wanted = value
            if not isinstance(value, np.ndarray) or wanted is None:
                continue
            channel = value[0] if value.ndim == 1 else value[:, 0]
            if name in of_it and np.isfinite(channel).any():
                raise ConformanceError(f"{odd} in x should reach {name}, got {channel}")
            if name not in of_it and not np.isfinite(channel).all():
                raise ConformanceError(f"{odd} in x should not reach {name}, got {channel}")
            _unless_untouched(f"{odd} in x", name, value, wanted, 0 if name in of_it else None)


def reach_through_backward(implementation: Implementation, case: Case) -> None:
    """Pass a NaN in grad_output: it reaches every gradient of its channel, and no other."""
    (step,) = case.steps
    if step.grad_output is None:
        return
    grad = step.grad_output.copy()
    grad.reshape(len(grad), grad.shape[1], -1)[0, 0, 0] = np.nan
    exact = oracle.step(case.setup, step)
    layer = implementation.make(case.setup)
    found = run_step(layer, replace(step, grad_output=grad), reads_statistics=False).results
    for name in GRADIENTS:
        value = found[name]
        if not isinstance(value, np.ndarray):
            continue
        channel = value[0] if value.ndim == 1 else value[:, 0]
        if not np.isnan(channel).any() or (step.training and not np.isnan(channel).all()):
            raise ConformanceError(f"NaN in grad_output should reach {name}, got {channel}")
        _unless_untouched("NaN in grad_output", name, value, getattr(exact, name), 0)


def _with(step: Step, odd: float) -> Step:
    """Return the step with another first value of the first channel."""
    x = step.x.copy()
    x.reshape(len(x), x.shape[1], -1)[0, 0, 0] = odd
    return replace(step, x=x)


@np.errstate(all="ignore")
def _unless_untouched(
    what: str, name: str, value: np.ndarray, exact: np.ndarray, channel: int | None
) -> None:
    """Raise ConformanceError if values that do not depend on the odd one are far off.

    Those are the other channels and, with `channel` None, all but the first value.
    """
    own = np.zeros(value.shape, bool)
    if channel is not None:
        own[(channel,) if value.ndim == 1 else (slice(None), channel)] = True
    elif value.ndim > 1:
        own.reshape(len(own), value.shape[1], -1)[0, 0, 0] = True
    scale = float(np.abs(exact).max(initial=0, where=~own)) + 1e-30
    off = ~(np.abs(value.astype(np.float64) - exact) <= 1e-2 * scale)  # NaN is off
    if (off & ~own).any():
        raise ConformanceError(f"{what} changed values of {name} that do not depend on it")


def _refusal(layer: BatchNorm, step: Step) -> None:
    try:
        y = layer.forward(step.given, True)
    except Exception:  # whichever error: it is refused
        return
    raise ConformanceError(
        f"a batch of shape {step.x.shape} should be refused in training, got {y!r}"
    )


def _state(layer: BatchNorm) -> dict[str, Any]:
    names = (*RUNNING, "num_batches_tracked")
    return {name: np.array(getattr(layer, name)) for name in names}
