"""Replay exported cases on an implementation; see :mod:`npbn.testing.export`."""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npbn.testing.case import Setup
from npbn.testing.convention_table import CONVENTIONS
from npbn.testing.export_format import MEASURES, Entry, read_arrays, read_index
from npbn.testing.limits import Limits
from npbn.testing.names import GRADIENTS, RUNNING, VECTORS
from npbn.testing.protocol import Implementation
from npbn.testing.words import in_words
from npbn.testing.worker import LostError, Worker, WorkerError


class Verdict(NamedTuple):
    """The result of one measure on one case.

    Attributes
    ----------
    status : {"passed", "failed", "not supported", "not measured", "not tried"}
        "not measured": "correct" says nothing where straightforward arithmetic overflows.
        "not tried": time was over, or several cases of its kind did not return.
    worst : float or None
        The largest error in units of its tolerance, infinite for NaN; None without one.
    text : str
        What failed, what is not supported, or why it was not tried; may be empty.
    """

    status: str
    worst: float | None
    text: str


@dataclass(frozen=True)
class ReplayResult:
    """The result of an implementation on one case.

    Attributes
    ----------
    name, description : str
        Of the case.
    correct, contract : Verdict
        By the two measures of :mod:`npbn.testing.tolerances`.
    """

    name: str
    description: str
    correct: Verdict
    contract: Verdict


@dataclass(frozen=True)
class ReplayReport:
    """All cases of an export, and the verdict.

    Attributes
    ----------
    results : tuple of ReplayResult
    """

    results: tuple[ReplayResult, ...]

    @property
    def status(self) -> int:
        """The exit status: 0 checked and right, 1 wrong, 2 not all tried or none checked."""
        found = {result.correct.status for result in self.results}
        if "failed" in found:
            return 1
        return 0 if "passed" in found and "not tried" not in found else 2

    def __str__(self) -> str:
        lines = []
        for measure in ("correct", "contract"):
            verdicts = [getattr(result, measure) for result in self.results]
            counts = Counter(verdict.status for verdict in verdicts)
            worst = max((verdict.worst or 0.0 for verdict in verdicts), default=0.0)
            summary = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
            lines.append(f"{measure}: {summary}; largest error {worst:.3g} of its tolerance")
        for result in self.results:
            if result.correct.status == "failed":
                lines.append(f"{result.name} ({result.description}): {result.correct.text}")
        if self.status == 2:
            lines.append("not checked")
        return "\n".join(lines)


def replay_cases(
    folder: str | os.PathLike[str],
    target: object,
    seconds: float = 10.0,
    warm_up: float = 60.0,
    limit: float = 1800.0,
) -> list[ReplayResult]:
    """Check an implementation on exported cases, in a separate process.

    Whatever it does (raise, return None, a wrong shape or dtype, NaN, end the process, not
    return), the case has failed, with a text that says why, and the replay goes on.

    Parameters
    ----------
    folder : str or path-like
        Written by :func:`export_cases`.
    target : str, class, function or Implementation
        As :func:`npbn.testing.check_batch_norm` takes it. Cases that need what it does not support
        are not run; where it lacks the backward pass, the running statistics or the counter alone,
        or has another convention than PyTorch's for these, the rest is checked.
    seconds : float
        How long a case may take.
    warm_up : float
        How long the calls before the first case may take, in which libraries compile.
    limit : float
        Seconds for all of them; what comes later is not tried.

    Returns
    -------
    list of ReplayResult
        One for each case, in the order of the index.

    Raises
    ------
    DataError
        If the export is missing, partial, damaged or of another version; it names the file.
    ValueError
        If there is no such target.
    CannotConstructError
        If it cannot be made.
    """
    folder = Path(folder)
    entries = read_index(folder)
    results, limits = [], Limits(seconds, time.monotonic() + limit)
    with Worker(target, warm_up=warm_up, function=_replay) as worker:
        for entry in entries:
            arrays = read_arrays(folder / entry.file, entry)
            verdicts = _within(limits, worker, entry, arrays)
            name = entry.file.removesuffix(".npz")
            results.append(ReplayResult(name, entry.description, **verdicts))
    return results


def _within(
    limits: Limits, worker: Worker, entry: Entry, arrays: dict[str, np.ndarray]
) -> dict[str, Verdict]:
    """Check one case in the worker, unless time is over or its kind is known to be lost."""
    kind = (entry.training, entry.dtype)
    if (reason := limits.reason_to_skip(kind)) is not None:
        return dict.fromkeys(MEASURES, Verdict("not tried", None, reason))
    try:
        verdicts: dict[str, Verdict] = worker.call(_replay, entry, arrays, seconds=limits.seconds)
        return verdicts
    except WorkerError as error:
        limits.lost[kind] += isinstance(error, LostError)
        return dict.fromkeys(MEASURES, Verdict("failed", None, str(error)))


class _WrongError(Exception):
    """The implementation failed in a way that no tolerance measures."""


def _replay(
    implementation: Implementation, entry: Entry, arrays: dict[str, np.ndarray]
) -> dict[str, Verdict]:
    missing = sorted(_needs(entry) & implementation.unsupported)
    if missing:
        return dict.fromkeys(MEASURES, Verdict("not supported", None, ", ".join(missing)))
    try:
        results, skipped = _run(entry, arrays, implementation)
    except _WrongError as error:
        return dict.fromkeys(MEASURES, Verdict("failed", None, str(error)))
    note = f"not supported: {', '.join(skipped)}" if skipped else ""
    return {
        measure: _verdict(measure, results, arrays, note)
        if measure in entry.measures
        else Verdict("not measured", None, note)
        for measure in MEASURES
    }


def _needs(entry: Entry) -> set[str]:
    """Return the capabilities without which a case cannot be run at all."""
    needs = {
        "training": entry.training or not entry.tracked,
        "evaluation": not entry.training,
        "momentum_none": entry.tracked and entry.momentum is None,
        "no_affine": not (entry.weight or entry.bias),
        "weight_alone": entry.weight and not entry.bias,
        "bias_alone": entry.bias and not entry.weight,
        "untracked": not entry.tracked,
        "empty": 0 in entry.shape,
        # In float32 what float32 scalars lose is below an eps of its.
        "double_scalars": entry.dtype == "float64" and not _held_in_float32(entry),
    }
    always = {f"rank{len(entry.shape)}", entry.dtype}
    return always | {capability for capability, needed in needs.items() if needed}


def _held_in_float32(entry: Entry) -> bool:
    """Return whether float32 holds the scalars that the case depends on."""
    averages = entry.training and entry.tracked
    scalars = [entry.eps, entry.momentum if averages else None]
    return all(scalar is None or scalar == float(np.float32(scalar)) for scalar in scalars)


def _run(
    entry: Entry, arrays: dict[str, np.ndarray], implementation: Implementation
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the results by name, and the capabilities for lack of which some are left out."""
    vectors: dict[str, Any] = {name: arrays.get(name) for name in VECTORS}
    setup = Setup(
        entry.shape[1],
        entry.eps,
        entry.momentum,
        **vectors,
        num_batches_tracked=entry.num_batches_tracked_before,
        dtype=np.dtype(entry.parameter_dtype),
    )
    parts = {
        "backward": True,
        "eval_backward": not entry.training,
        "running_statistics": entry.tracked,
        "counter": entry.tracked,
    }
    lacking = set(implementation.unsupported)
    if implementation.convention != CONVENTIONS["pytorch"]:
        lacking.add("running_statistics")  # those of the files are PyTorch's
    skipped = [part for part, there in parts.items() if there and part in lacking]

    layer = _attempt("making it", implementation.make, setup)
    results = {"y": _attempt("forward", lambda: layer.forward(arrays["x"], entry.training))}
    if not {"backward", "eval_backward"} & set(skipped):
        grads = _attempt("backward", lambda: layer.backward(arrays["grad_output"]))
        if not isinstance(grads, (tuple, list)) or len(grads) != 3:
            raise _WrongError(f"backward: expected three gradients, got {_what(grads)}")
        results |= zip(GRADIENTS, grads, strict=True)
    if entry.tracked and "running_statistics" not in skipped:
        for name in RUNNING:
            results[f"{name}_after"] = _attempt(name, getattr, layer, name)
    if entry.tracked and "counter" not in skipped:
        count = _attempt("num_batches_tracked", getattr, layer, "num_batches_tracked")
        expected = entry.num_batches_tracked_after
        if not _attempt("num_batches_tracked", np.array_equal, count, expected):
            raise _WrongError(f"num_batches_tracked: expected {expected}, got {_what(count)}")

    results = {name: result for name, result in results.items() if name in arrays}
    for name, result in results.items():
        dtype = entry.dtype if name in ("y", "grad_input") else entry.parameter_dtype
        shape = arrays[name].shape
        fits = isinstance(result, np.ndarray) and result.shape == shape and result.dtype == dtype
        if not fits:
            raise _WrongError(f"{name}: expected {dtype} array of {shape}, got {_what(result)}")
    return results, skipped


def _attempt(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except BaseException as error:
        raise _WrongError(f"{what} raised {in_words(error)}") from error


def _what(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"{value.dtype} array of {value.shape}"
    return "None" if value is None else f"{type(value).__name__} {str(value)[:60]}"


def _verdict(
    measure: str, results: dict[str, np.ndarray], arrays: dict[str, np.ndarray], note: str
) -> Verdict:
    """Find the largest error in units of its tolerance."""
    worst, text = 0.0, note
    for name, result in results.items():
        expected, allowed = arrays[name], arrays[f"tolerance_{measure}_{name}"]
        got = result.astype(np.float64)
        with np.errstate(all="ignore"):
            ratio = np.abs(got - expected) / allowed
        ratio = np.where(got == expected, 0, np.where(np.isnan(ratio), np.inf, ratio))
        if ratio.max(initial=0) > worst:
            at = np.unravel_index(ratio.argmax(), ratio.shape)
            worst = float(ratio[at])
            if worst > 1:
                place = f"{name}[{', '.join(map(str, at))}]"
                exact = f"{expected[at]:.9g} ± {allowed[at]:.2g}"
                text = f"{place} is {got[at]:.9g}, expected {exact}: {worst:.3g} x the tolerance"
    return Verdict("failed" if worst > 1 else "passed", worst, text)
