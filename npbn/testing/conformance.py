"""The suite: every behaviour tried on an implementation, and what was found."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity

from npbn.testing.behaviours import BEHAVIOURS, Behaviour
from npbn.testing.case import Case
from npbn.testing.compare import ConformanceError, Errors
from npbn.testing.protocol import Implementation
from npbn.testing.report import (
    FAILED,
    NOT_SUPPORTED,
    PASSED,
    BehaviourResult,
    ConformanceReport,
    snippet,
)


def check_batch_norm(
    implementation: Implementation,
    *,
    examples: int = 50,
    seed: int = 0,
    only: str = "",
    seconds: float = 10.0,
    progress: Callable[[Iterable[Behaviour]], Iterable[Behaviour]] = iter,
) -> ConformanceReport:
    """Try every behaviour of a BatchNorm on an implementation.

    Parameters
    ----------
    implementation : Implementation
        See :mod:`npbn.testing.protocol` for the adapters that make one.
    examples : int
        Cases drawn for each behaviour.
    seed : int
        Where they are drawn from.
    only : str
        Try the behaviours whose name contains this.
    seconds : float
        How long one case may take before it counts as never returning.
    progress : callable
        Wraps the behaviours as they are tried, as ``tqdm`` does.

    Returns
    -------
    ConformanceReport
        An implementation that raises, returns other things than arrays, or does not return,
        fails the behaviour, and the suite goes on.

    Raises
    ------
    ValueError
        If no behaviour's name contains `only`.

    Examples
    --------
    >>> import npbn
    >>> from npbn.testing import check_batch_norm, npbn_implementation
    >>> report = check_batch_norm(npbn_implementation(npbn.BatchNorm1d), examples=3)
    >>> report.correct, report.accurate
    (True, True)
    """
    behaviours = [behaviour for behaviour in BEHAVIOURS if only in behaviour.name]
    if not behaviours:
        names = ", ".join(behaviour.name for behaviour in BEHAVIOURS)
        raise ValueError(f"only: no behaviour contains {only!r}; there are: {names}")
    results = tuple(
        try_behaviour(behaviour, implementation, examples, seed, seconds)
        for behaviour in progress(behaviours)
    )
    return ConformanceReport(implementation.name, results, examples, seed)


def try_behaviour(
    behaviour: Behaviour,
    implementation: Implementation,
    examples: int = 50,
    seed: int = 0,
    seconds: float = 10.0,
) -> BehaviourResult:
    """Try one behaviour, by both measures."""
    lacking = behaviour.lacks(implementation)
    if lacking:
        reason = "not supported: " + ", ".join(lacking)
        return BehaviourResult(behaviour.name, NOT_SUPPORTED, NOT_SUPPORTED, problem=reason)
    examples = max(1, round(examples * behaviour.share))
    correct = _Trial(behaviour, implementation, "correct", seconds)
    contract = _Trial(behaviour, implementation, "contract", seconds)
    if not behaviour.contract_only:
        correct.run(examples, seed)
    if correct.problem is None:
        contract.run(examples, seed)
    found = correct if correct.problem is not None else contract
    verdict = FAILED if correct.problem is not None else PASSED
    return BehaviourResult(
        behaviour.name,
        "not part" if behaviour.contract_only else verdict,
        PASSED if found.problem is None else FAILED,
        found.worst,
        found.problem,
        None if found.case is None else snippet(found.case),
    )


class _Trial:
    """One behaviour by one measure: the worst error, and the smallest case that went wrong."""

    def __init__(
        self, behaviour: Behaviour, implementation: Implementation, measure: str, seconds: float
    ):
        self.behaviour, self.implementation = behaviour, implementation
        self.measure, self.seconds = measure, seconds
        self.worst: float | None = None
        self.problem: str | None = None
        self.case: Case | None = None
        self.hung = False

    def run(self, examples: int, seed: int) -> None:
        """Draw cases until one goes wrong, then smaller ones."""

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(self.behaviour.cases)
        def attempt(case: Case) -> None:
            if self.hung:  # it would hang again, and there is nothing to stop it with
                return
            self._try(case)

        try:
            attempt()
        except Exception:  # what went wrong is kept by then; an odd one may not repeat itself
            if self.problem is None:
                raise

    def _try(self, case: Case) -> None:
        try:
            errors = _within(
                self.seconds,
                lambda: self.behaviour.run(self.implementation, case, self.measure),
            )
        except TimeoutError as error:
            self.hung = True
            self._note(case, str(error))
            raise
        except ConformanceError as error:
            self._record(error.errors)
            self._note(case, str(error))
            raise
        except Exception as error:
            self._note(case, f"raised {type(error).__name__}: {error}")
            raise
        self._record(errors)

    def _record(self, errors: Errors) -> None:
        if errors.contract:
            self.worst = max(self.worst or 0.0, errors.worst_in_eps())

    def _note(self, case: Case, problem: str) -> None:
        """Keep the smallest case that went wrong."""
        if self.case is None or _size(case) <= _size(self.case):
            self.case, self.problem = case, problem


def _size(case: Case) -> tuple[int, int]:
    return len(case.steps), sum(step.x.size for step in case.steps)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what `call` returns, or raise TimeoutError; its thread is then left behind."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            with np.errstate(all="ignore"):  # what it warns of shows in its results
                outcome["result"] = call()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"did not return within {seconds:g} seconds")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
