"""One case through an implementation, every result held against the oracle."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from npbn.testing import oracle, tolerances
from npbn.testing.case import Case, Setup, Step
from npbn.testing.protocol import BatchNorm, Implementation

Tolerances = Callable[[Setup, Step, oracle.Exact], tolerances.Tolerance]

# What the contract allows each result, in units of eps (of k for float64): it turns a multiple of
# the tolerance into eps again, for the report.
IN_EPS = {
    "y": tolerances.OUTPUT_K,
    "grad_input": tolerances.GRADIENT_K,
    "grad_weight": tolerances.GRADIENT_K,
    "grad_bias": tolerances.GRADIENT_K,
    "running_mean": tolerances.RUNNING_K,
    "running_var": tolerances.RUNNING_K,
}


class Errors(NamedTuple):
    """The largest errors seen, each as a multiple of what a measure allows, by result."""

    correct: dict[str, float]
    contract: dict[str, float]

    def worst_in_eps(self) -> float:
        """Return the largest error in units of eps, on the contract's measure."""
        return max((ratio * IN_EPS[name] for name, ratio in self.contract.items()), default=0.0)


class ConformanceError(AssertionError):
    """An implementation did not do what it should; the message says what.

    Attributes
    ----------
    errors : Errors
        What had been measured by then.
    """

    def __init__(self, message: str, errors: Errors | None = None):
        super().__init__(message)
        self.errors = errors or Errors({}, {})


def follow(
    implementation: Implementation, case: Case, results: tuple[str, ...], measure: str
) -> Errors:
    """Take every step of a case; raise ConformanceError at the first result beyond its tolerance.

    Every step is judged on its own: the oracle starts from the running statistics that the
    implementation holds before it.

    Parameters
    ----------
    implementation : Implementation
    case : Case
    results : tuple of str
        Which results to look at: fields of :class:`npbn.testing.tolerances.Tolerance` and
        "num_batches_tracked".
    measure : {'correct', 'contract'}
        Whose tolerance raises; the errors are returned on both.
    """
    layer = implementation.make(case.setup)
    setup = case.setup
    errors = Errors({}, {})
    for number, step in enumerate(case.steps, 1):
        before = f"step {number} ({'training' if step.training else 'evaluation'}): "
        y = layer.forward(step.x, step.training)
        found: dict[str, Any] = {"y": y}
        if step.grad_output is not None:
            names = ("grad_input", "grad_weight", "grad_bias")
            gradients = layer.backward(step.grad_output)
            if not isinstance(gradients, tuple) or len(gradients) != 3:
                raise ConformanceError(
                    f"{before}backward returned no tuple of three: {_kind(gradients)}"
                )
            found |= dict(zip(names, gradients, strict=True))
        if setup.tracks and "running_statistics" not in implementation.unsupported:
            found["running_mean"] = layer.running_mean
            found["running_var"] = layer.running_var
        exact = oracle.step(setup, step)
        problem = None
        for name in results:
            if name in found and getattr(exact, name) is not None and _has(setup, name):
                dtype = step.x.dtype if name in ("y", "grad_input") else setup.dtype
                _check_form(before + name, found[name], getattr(exact, name).shape, dtype)
        for kind in ("correct", "contract"):
            allowed = getattr(tolerances, kind)(setup, step, exact)
            for name in results:
                if name in found and _has(setup, name) and getattr(allowed, name) is not None:
                    ratio, at = _excess(found[name], getattr(exact, name), getattr(allowed, name))
                    record = getattr(errors, kind)
                    record[name] = max(record.get(name, 0.0), ratio)
                    if kind == measure and not ratio <= 1:
                        problem = problem or (
                            f"{before}{name}{list(at)} is {found[name][at]}, should be "
                            f"{getattr(exact, name)[at]} ± {getattr(allowed, name)[at]:.2g}"
                        )
        if problem is not None:
            raise ConformanceError(problem, errors)
        if "num_batches_tracked" in results and "counter" not in implementation.unsupported:
            _check_counter(before, layer, exact.num_batches_tracked)
        setup = _after(setup, layer, exact, implementation)
    return errors


def _after(
    setup: Setup, layer: BatchNorm, exact: oracle.Exact, implementation: Implementation
) -> Setup:
    """Return the setup of the next step: what the implementation holds now."""
    if not setup.tracks or "running_statistics" in implementation.unsupported:
        return setup
    return replace(
        setup,
        running_mean=np.array(layer.running_mean),
        running_var=np.array(layer.running_var),
        num_batches_tracked=exact.num_batches_tracked,
    )


def _has(setup: Setup, name: str) -> bool:
    """Tell whether there is a parameter for this gradient to belong to."""
    vector = {"grad_weight": setup.weight, "grad_bias": setup.bias}.get(name, setup)
    return vector is not None


def _check_form(what: str, array: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if not isinstance(array, np.ndarray):
        raise ConformanceError(f"{what} should be an ndarray, got {_kind(array)}")
    if array.shape != shape:
        raise ConformanceError(f"{what} should have shape {shape}, got {array.shape}")
    if array.dtype != dtype:
        raise ConformanceError(f"{what} should have dtype {dtype}, got {array.dtype}")


def _check_counter(before: str, layer: BatchNorm, expected: int) -> None:
    counter = layer.num_batches_tracked
    if counter is None or int(counter) != expected:
        raise ConformanceError(f"{before}num_batches_tracked is {counter!r}, should be {expected}")


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


@np.errstate(all="ignore")
def _excess(
    found: np.ndarray, exact: np.ndarray, allowed: np.ndarray
) -> tuple[float, tuple[int, ...]]:
    """Return the largest error as a multiple of what is allowed, and where it is.

    NaN counts as infinite; results that the dtype cannot hold count for nothing.
    """
    if found.size == 0:
        return 0.0, ()
    ratio = np.abs(found.astype(np.float64) - exact) / allowed
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    ratio = np.where(np.abs(exact) >= 0.999 * float(np.finfo(found.dtype).max), 0.0, ratio)
    at = np.unravel_index(int(ratio.argmax()), ratio.shape)
    return float(ratio[at]), tuple(int(i) for i in at)
