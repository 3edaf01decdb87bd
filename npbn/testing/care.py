"""Checks of how an implementation treats memory, odd values and refusals."""

from dataclasses import replace
from typing import Any

import numpy as np

from npbn.testing import oracle
from npbn.testing.case import Case, Step
from npbn.testing.compare import ConformanceError, follow
from npbn.testing.protocol import BatchNorm, Implementation

PASSES = ("y", "grad_input", "grad_weight", "grad_bias")


def inputs_unchanged(implementation: Implementation, case: Case) -> None:
    """Look for a pass that writes into its argument."""
    layer = implementation.make(case.setup)
    for step in case.steps:
        x, grad = step.x.copy(), step.grad_output.copy()
        layer.forward(x, step.training)
        if not np.array_equal(x, step.x):
            raise ConformanceError("forward changed its input")
        layer.backward(grad)
        if not np.array_equal(grad, step.grad_output):
            raise ConformanceError("backward changed grad_output")


def results_kept(implementation: Implementation, case: Case) -> None:
    """Look for a later call that changes what an earlier one returned."""
    layer = implementation.make(case.setup)
    kept: list[tuple[str, np.ndarray, np.ndarray]] = []
    for step in case.steps:
        for name, array in _pass(layer, step).items():
            if array is not None:
                kept.append((name, array, array.copy()))
    for name, array, copy in kept:
        if not np.array_equal(array, copy, equal_nan=True):
            raise ConformanceError(f"a later call changed an earlier {name}")


def output_overwritten(implementation: Implementation, case: Case) -> None:
    """Overwrite the output, which is the caller's: backward may not depend on it."""
    (step,) = case.steps
    expected = _pass(implementation.make(case.setup), step)
    layer = implementation.make(case.setup)
    y = layer.forward(step.x, step.training)
    if y.flags.writeable:
        y[...] = np.nan
    for name, array in zip(
        ("grad_input", "grad_weight", "grad_bias"), layer.backward(step.grad_output), strict=True
    ):
        if array is not None and not np.array_equal(array, expected[name]):
            raise ConformanceError(
                f"{name} changed with the output array, which had been overwritten"
            )


def two_layers(implementation: Implementation, case: Case) -> None:
    """Run a second layer between the two passes of a first, which may not notice."""
    (step,) = case.steps
    expected = _pass(implementation.make(case.setup), step)
    layer, other = implementation.make(case.setup), implementation.make(case.setup)
    layer.forward(step.x, step.training)
    other.forward(3 * step.x + 1, step.training)
    found = zip(
        ("grad_input", "grad_weight", "grad_bias"), layer.backward(step.grad_output), strict=True
    )
    for name, array in found:
        if array is not None and not np.array_equal(array, expected[name]):
            raise ConformanceError(f"{name} changed when another layer ran in between")
    # The same layer again, with another batch: backward goes through the latest forward.
    again = replace(case, steps=(step, replace(step, x=np.ascontiguousarray(step.x[::-1] * 2))))
    follow(implementation, again, PASSES, "correct")


def refuses_one_value(implementation: Implementation, case: Case) -> None:
    """Offer one value a channel, which has no variance: an error in training."""
    _refusal(implementation.make(case.setup), case.steps[0])


def refusal_changes_nothing(implementation: Implementation, case: Case) -> None:
    """Look at statistics and counter after a refused batch."""
    layer = implementation.make(case.setup)
    before = _state(layer)
    _refusal(layer, case.steps[0])
    for name, value in _state(layer).items():
        if not np.array_equal(value, before[name]):
            raise ConformanceError(
                f"refusing a batch changed {name} from {before[name]} to {value}"
            )


def constant_channels(implementation: Implementation, case: Case) -> None:
    """Offer equal values, which have no deviation: the output is the bias to the bit, or 0."""
    setup, (step,) = case.setup, case.steps
    y = implementation.make(setup).forward(step.x, step.training)
    bias = np.zeros(setup.num_features, y.dtype) if setup.bias is None else setup.bias
    expected = np.broadcast_to(bias.reshape(1, -1, *(1,) * (y.ndim - 2)), y.shape)
    if not np.array_equal(y, expected):
        raise ConformanceError(f"a constant channel gave {y[y != expected][0]!r}, not its bias")


def non_finite(implementation: Implementation, case: Case) -> None:
    """Offer a NaN: its channel becomes NaN in training, the element alone in evaluation."""
    (step,) = case.steps
    for odd in (np.nan, np.inf):
        x = step.x.copy()
        x[0, 0] = odd
        y = implementation.make(case.setup).forward(x, step.training)
        exact = oracle.step(case.setup, step).y  # of the finite original: the other channels
        if step.training and not np.isnan(y[:, 0]).all():
            raise ConformanceError(f"{odd} in training should make its channel NaN, got {y[:, 0]}")
        if not step.training and np.isfinite(y[0, 0]):
            raise ConformanceError(f"{odd} in evaluation should reach the output, got {y[0, 0]}")
        others = slice(1, None) if step.training else (slice(1, None), slice(None))
        clean = y[:, others] if step.training else y[others]
        wanted = exact[:, others] if step.training else exact[others]
        if not np.allclose(clean, wanted, rtol=1e-2, atol=1e-2):
            raise ConformanceError(f"{odd} in one place changed values that do not depend on it")


def _pass(layer: BatchNorm, step: Step) -> dict[str, np.ndarray | None]:
    y = layer.forward(step.x, step.training)
    grads = layer.backward(step.grad_output)
    return {"y": y, **dict(zip(("grad_input", "grad_weight", "grad_bias"), grads, strict=True))}


def _refusal(layer: BatchNorm, step: Step) -> None:
    try:
        y = layer.forward(step.x, True)
    except Exception:  # whichever error: it is refused
        return
    raise ConformanceError(
        f"a batch of shape {step.x.shape} should be refused in training, got {y!r}"
    )


def _state(layer: BatchNorm) -> dict[str, Any]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: np.array(getattr(layer, name)) for name in names}
