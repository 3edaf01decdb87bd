"""Run one case on an implementation and compare every result with the oracle."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from npbn.testing import oracle, tolerances
from npbn.testing.case import Case, Setup, Step
from npbn.testing.names import GRADIENTS, PARAMETERS, RUNNING
from npbn.testing.protocol import BatchNorm, Implementation


class Errors(NamedTuple):
    """The largest errors seen, by result.

    Attributes
    ----------
    correct, contract : dict of str to float
        As multiples of what the measure allows.
    in_eps : dict of str to float
        In eps of the result's dtype.
    """

    correct: dict[str, float]
    contract: dict[str, float]
    in_eps: dict[str, float]


def no_errors() -> Errors:
    """Return the errors of a check that has measured nothing."""
    return Errors({}, {}, {})


class ConformanceError(AssertionError):
    """An implementation did not do what it should; the message says what.

    Attributes
    ----------
    errors : Errors
        What had been measured by then.
    result : str
        Which result is wrong, where it is one.
    """

    def __init__(self, message: str, errors: Errors | None = None, result: str = ""):
        super().__init__(message)
        self.errors = errors or no_errors()
        self.result = result


class Remark(Exception):  # noqa: N818 - it is no error
    """An implementation did something worth reporting that is not wrong."""


class Found(NamedTuple):
    """What an implementation gave in one step, copied at once.

    Attributes
    ----------
    results : dict of str to object
        By the names of :class:`npbn.testing.tolerances.Tolerance`; running statistics are those
        after the step.
    between : dict of str to ndarray
        The running statistics after forward and before backward.
    """

    results: dict[str, Any]
    between: dict[str, np.ndarray]


def follow(
    implementation: Implementation, case: Case, results: tuple[str, ...], measure: str
) -> Errors:
    """Take every step of a case; raise ConformanceError at the first result beyond its tolerance.

    Every step is checked separately: the oracle starts from the running statistics that the
    implementation has before it. The implementation receives copies.

    Parameters
    ----------
    implementation : Implementation
    case : Case
    results : tuple of str
        Which results to check: fields of :class:`npbn.testing.tolerances.Tolerance`,
        "num_batches_tracked" and "parameters".
    measure : {'correct', 'contract'}
        Whose tolerance raises; the errors are returned on both.
    """
    layer: Any = implementation.make(case.setup)  # `load` is optional
    setup, errors = case.setup, no_errors()
    for number, step in enumerate(case.steps, 1):
        if step.load is not None:
            layer.load(step.load)
            setup = replace(step.load, num_batches_tracked=setup.num_batches_tracked)
        before = f"step {number} ({'training' if step.training else 'evaluation'}): "
        try:
            setup = take(implementation, layer, setup, step, results, measure, errors)
        except ConformanceError as error:
            raise ConformanceError(f"{before}{error}", errors, error.result) from error
    return errors


def take(
    implementation: Implementation,
    layer: BatchNorm,
    setup: Setup,
    step: Step,
    results: tuple[str, ...],
    measure: str,
    errors: Errors,
) -> Setup:
    """Run one step and check it; return the setup of the next one."""
    reads = setup.tracks and "running_statistics" not in implementation.unsupported
    found = run_step(layer, step, reads)
    exact = oracle.step(setup, step, implementation.convention)
    moves_late = implementation.convention.moves_in == "backward"
    if moves_late and step.grad_output is None and reads:
        mean, var = (values.astype(np.float64) for values in setup.statistics)
        exact = exact._replace(running_mean=mean, running_var=var)
    looked_at = [name for name in results if name in found.results and _has(setup, name)]
    for name in looked_at:
        dtype = step.x.dtype if name in ("y", "grad_input") else setup.dtype
        if getattr(exact, name) is not None:
            _check_form(name, found.results[name], getattr(exact, name).shape, dtype)
    _measure(implementation, setup, step, exact, found, looked_at, measure, errors)
    if reads and set(RUNNING) & set(looked_at):
        _check_pass_that_moves(setup, found, moves_late)
    counts = setup.tracks and "counter" not in implementation.unsupported
    if counts and "num_batches_tracked" in results:
        _check_counter(layer, exact.num_batches_tracked)
    if "parameters" in results:
        _check_parameters(setup, layer)
    moved = {name: found.results[name] for name in RUNNING} if reads else {}
    return replace(setup, num_batches_tracked=exact.num_batches_tracked, **moved)


def run_step(layer: BatchNorm, step: Step, reads_statistics: bool) -> Found:
    """Run forward and, with a grad_output, backward; return copies of what came."""
    results: dict[str, Any] = {"y": _copy(layer.forward(step.given, step.training))}
    between = _statistics(layer) if reads_statistics else {}
    if (grad := step.given_grad) is not None:
        results |= {name: _copy(one) for name, one in named_gradients(layer, grad).items()}
    if reads_statistics:
        results |= _statistics(layer)
    return Found(results, between)


def named_gradients(layer: BatchNorm, grad_output: np.ndarray) -> dict[str, Any]:
    """Return what the backward pass returns, not copied."""
    gradients = layer.backward(grad_output)
    if not isinstance(gradients, tuple) or len(gradients) != 3:
        raise ConformanceError(f"backward returned no tuple of three: {kind_of(gradients)}")
    return dict(zip(GRADIENTS, gradients, strict=True))


def _measure(
    implementation: Implementation,
    setup: Setup,
    step: Step,
    exact: oracle.Exact,
    found: Found,
    looked_at: list[str],
    measure: str,
    errors: Errors,
) -> None:
    """Record every error; raise ConformanceError for the first beyond the measure's tolerance."""
    problem = None
    for kind in ("correct", "contract", "in_eps"):
        allowed = getattr(tolerances, kind)(setup, step, exact, implementation.convention)
        record = getattr(errors, kind)
        for name in looked_at:
            bound = getattr(allowed, name, None)
            if bound is None:
                continue
            value, expected = found.results[name], getattr(exact, name)
            ratio, at = _excess(value, expected, bound)
            record[name] = max(record.get(name, 0.0), ratio)
            if kind == measure and not ratio <= 1 and problem is None:
                message = (
                    f"{name}{list(at)} is {value[at]}, should be {expected[at]} ± {bound[at]:.2g}"
                )
                problem = ConformanceError(message, errors, name)
    if problem is not None:
        raise problem


def _check_pass_that_moves(setup: Setup, found: Found, moves_late: bool) -> None:
    """Raise ConformanceError if the running statistics moved in the wrong pass."""
    for name in RUNNING:
        held = getattr(setup, name) if moves_late else found.results[name]
        if not np.array_equal(found.between[name], held, equal_nan=True):
            passes = "forward" if moves_late else "backward"
            other = "backward" if moves_late else "forward"
            problem = f"{passes} changed {name}, which {other} alone should do"
            raise ConformanceError(problem, result=name)


def _check_parameters(setup: Setup, layer: BatchNorm) -> None:
    """Raise ConformanceError if a layer that shows weight and bias has changed them."""
    for name in PARAMETERS:
        value, given = getattr(layer, name, None), getattr(setup, name)
        if isinstance(value, np.ndarray) and not np.array_equal(value, given, equal_nan=True):
            raise ConformanceError(f"{name} changed from {given} to {value}", result="parameters")


def _has(setup: Setup, name: str) -> bool:
    """Return whether the layer has the parameter that a gradient belongs to."""
    vector = {"grad_weight": setup.weight, "grad_bias": setup.bias}.get(name, setup)
    return vector is not None


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _statistics(layer: BatchNorm) -> dict[str, Any]:
    return {name: _copy(getattr(layer, name)) for name in RUNNING}


def _check_form(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if not isinstance(array, np.ndarray):
        problem = f"should be an ndarray, got {kind_of(array)}"
    elif array.shape != shape:
        problem = f"should have shape {shape}, got {array.shape}"
    elif array.dtype != dtype:
        problem = f"should have dtype {dtype}, got {array.dtype}"
    else:
        return
    raise ConformanceError(f"{name} {problem}", result=name)


def _check_counter(layer: BatchNorm, expected: int) -> None:
    counter = layer.num_batches_tracked
    if counter is None or int(counter) != expected:
        problem = f"num_batches_tracked is {counter!r}, should be {expected}"
        raise ConformanceError(problem, result="num_batches_tracked")


def kind_of(value: object) -> str:
    """Name a value's type."""
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
