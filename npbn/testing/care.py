"""Checks of how an implementation treats its caller's memory, other layers and threads."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from npbn.testing.case import Case, Step
from npbn.testing.compare import (
    ConformanceError,
    follow,
    kind_of,
    named_gradients,
    run_step,
)
from npbn.testing.names import PASSES
from npbn.testing.protocol import BatchNorm, Implementation

TOGETHER = 6  # rounds of two threads


def inputs_unchanged(implementation: Implementation, case: Case) -> None:
    """Look for a pass that writes into its argument."""
    layer = implementation.make(case.setup)
    for step in case.steps:
        x, grad = step.given, step.given_grad
        layer.forward(x, step.training)
        _unless_same("forward wrote into its input", x, step.x)
        if grad is not None and step.grad_output is not None:
            layer.backward(grad)
            _unless_same("backward wrote into grad_output", grad, step.grad_output)
            _unless_same("backward wrote into the input of forward", x, step.x)


def results_kept(implementation: Implementation, case: Case) -> None:
    """Look for a later call that changes what an earlier one returned."""
    layer = implementation.make(case.setup)
    kept: list[tuple[str, np.ndarray, np.ndarray]] = []
    for step in case.steps:
        for name, array in _passes(layer, step).items():
            if isinstance(array, np.ndarray):
                kept.append((name, array, array.copy()))
    for name, array, copy in kept:
        _unless_same(f"a later call changed an earlier {name}", array, copy)


def output_overwritten(implementation: Implementation, case: Case) -> None:
    """Overwrite the output, which is the caller's: backward may not depend on it."""
    (step,) = case.steps
    expected = _passes(implementation.make(case.setup), step)
    layer = implementation.make(case.setup)
    y = layer.forward(step.given, step.training)
    if y.flags.writeable:
        y[...] = np.nan
    found = _gradients(layer, step)
    _unless_close("changed with the output array, which had been overwritten", found, expected)


def two_layers(implementation: Implementation, case: Case) -> None:
    """Run a second layer between the two passes of a first, which may not notice."""
    first, second = case.steps
    expected = run_step(implementation.make(case.setup), first, reads_statistics=False).results
    layer, other = implementation.make(case.setup), implementation.make(case.setup)
    found: dict[str, Any] = {"y": layer.forward(first.given, first.training).copy()}
    other.forward(3 * second.given + 1, second.training)
    if first.grad_output is not None:
        found |= _gradients(layer, first)
    _unless_close("changed when another layer ran in between", found, expected)
    # The same layer with another batch: backward goes through the latest forward.
    follow(implementation, case, PASSES, "correct")


def two_threads(implementation: Implementation, case: Case) -> None:
    """Run two layers in two threads at once."""
    other = replace(case, steps=tuple(replace(step, x=-2 * step.x) for step in case.steps))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(TOGETHER):
                tries = [
                    pool.submit(follow, implementation, one, PASSES, "correct")
                    for one in (case, other)
                ]
                for attempt in tries:
                    attempt.result()
    except ConformanceError as error:
        raise ConformanceError(f"beside another thread: {error}") from error
    finally:
        sys.setswitchinterval(interval)


def backward_twice(implementation: Implementation, case: Case) -> None:
    """Go backward a second time: an error, or the same gradients; then all is as before."""
    (step,) = case.steps
    layer = implementation.make(case.setup)
    grad = step.given_grad
    assert grad is not None
    expected = run_step(layer, step, reads_statistics=False).results
    try:
        found = named_gradients(layer, grad)
    except ConformanceError:  # it returned something else
        raise
    except Exception:  # whichever error: it is refused
        pass
    else:
        _unless_close("of a second backward differs from that of the first", found, expected)
    found = run_step(layer, step, reads_statistics=False).results
    _unless_close("of the next step differs after a second backward", found, expected)


def _passes(layer: BatchNorm, step: Step) -> dict[str, Any]:
    """Return what both passes return, not copied."""
    results: dict[str, Any] = {"y": layer.forward(step.given, step.training)}
    if step.grad_output is not None:
        results |= _gradients(layer, step)
    return results


def _gradients(layer: BatchNorm, step: Step) -> dict[str, Any]:
    """Return what the backward pass of a step that has one returns, not copied."""
    grad = step.given_grad
    assert grad is not None
    return named_gradients(layer, grad)


def _unless_same(problem: str, array: np.ndarray, copy: np.ndarray) -> None:
    if not np.array_equal(array, copy, equal_nan=True):
        raise ConformanceError(problem)


def _unless_close(problem: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise ConformanceError unless arrays agree to a thousandth of the largest value."""
    for name, value in found.items():
        if not isinstance(expected[name], np.ndarray):
            continue
        if not isinstance(value, np.ndarray):
            raise ConformanceError(f"{name} {problem}: it is {kind_of(value)}", result=name)
        wanted = expected[name].astype(np.float64)
        allowed = 1e-3 * float(np.abs(wanted).max(initial=0)) + 1e-30
        if not (np.abs(value.astype(np.float64) - wanted) <= allowed).all():
            raise ConformanceError(f"{name} {problem}", result=name)
