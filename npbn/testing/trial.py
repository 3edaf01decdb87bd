"""One behaviour by one measure: cases are drawn here and run in the target's process."""

import copy
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity

from npbn.testing.behaviours import BEHAVIOURS, Behaviour
from npbn.testing.case import Case
from npbn.testing.compare import ConformanceError, Errors, Remark
from npbn.testing.convention_table import Convention
from npbn.testing.limits import Limits
from npbn.testing.names import RUNNING, STATE
from npbn.testing.protocol import Implementation
from npbn.testing.worker import LostError, RaisedError, Worker

BY_NAME = {behaviour.name: behaviour for behaviour in BEHAVIOURS}


def run_case(
    implementation: Implementation,
    name: str,
    case: Case,
    measure: str,
    known: frozenset[str],
    convention: Convention | None,
) -> Errors:
    """Try one case of a behaviour, in the worker."""
    if convention is not None:
        implementation = copy.copy(implementation)
        implementation.convention = convention
    return BY_NAME[name].run(implementation, case, measure, known)


@dataclass
class Run:
    """What the behaviours of one check share.

    Attributes
    ----------
    worker : Worker
    limits : Limits
    known : set of str
        Results that are known to be wrong.
    """

    worker: Worker
    limits: Limits
    known: set[str] = field(default_factory=set)

    def learn(self, wrong: str) -> None:
        """Note that a result is wrong, so that it is not reported in other behaviours."""
        if wrong in STATE:
            self.known |= set(RUNNING) if wrong in RUNNING else {wrong}


def kind(case: Case) -> tuple[Any, ...]:
    """Return the properties that a case shares with others that may end the same way."""
    modes = {(step.training, step.grad_output is not None) for step in case.steps}
    return (*sorted(modes), str(case.steps[0].x.dtype))


def _interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind an error, as in code of hypothesis that is just starting."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class Trial:
    """A behaviour by one measure: the worst errors, and the smallest case that went wrong.

    Parameters
    ----------
    behaviour : Behaviour
    run : Run
    measure : {'correct', 'contract'}
    convention : Convention, optional
        Takes the place of the implementation's own.

    Attributes
    ----------
    errors : dict of str to float
        Largest errors in eps, by result.
    beyond_contract : bool
        Whether an error was larger than the contract allows.
    problem : str or None
        What went wrong in the smallest failing case.
    wrong : str
        Which result that was, where it was one.
    case : Case or None
    remark : str or None
    skipped : str or None
        Why cases were not tried.
    """

    def __init__(
        self, behaviour: Behaviour, run: Run, measure: str, convention: Convention | None = None
    ):
        self.behaviour, self.run_, self.measure = behaviour, run, measure
        self.convention = convention
        self.errors: dict[str, float] = {}
        self.beyond_contract = False
        self.problem: str | None = None
        self.wrong = ""
        self.case: Case | None = None
        self.remark: str | None = None
        self.skipped: str | None = None
        self._lost = False

    def run(self, examples: int, seed: int) -> "Trial":
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
            if self._lost:  # the smaller ones would be lost too, at the price of a process each
                return
            self.skipped = self.run_.limits.reason_to_skip(kind(case)) or self.skipped
            if self.skipped is None:
                self._try(case)

        try:
            attempt()
        except Exception as error:  # what went wrong is kept by then; it may not repeat itself
            if _interrupted(error):
                raise KeyboardInterrupt from error
            if self.problem is None:
                raise
        return self

    def _try(self, case: Case) -> None:
        run = self.run_
        arguments = self.behaviour.name, case, self.measure, frozenset(run.known), self.convention
        try:
            errors = run.worker.call(run_case, *arguments, seconds=run.limits.seconds)
        except Remark as remark:
            self.remark = str(remark)
        except ConformanceError as error:
            self._record(error.errors)
            self._note(case, str(error), error.result)
            raise
        except LostError as error:
            self._lost = True
            run.limits.lost[kind(case)] += 1
            self._note(case, str(error))
            raise
        except RaisedError as error:
            self._note(case, str(error))
            raise
        else:
            self._record(errors)

    def _record(self, errors: Errors) -> None:
        for name, error in errors.in_eps.items():
            self.errors[name] = max(self.errors.get(name, 0.0), error)
        self.beyond_contract |= not all(ratio <= 1 for ratio in errors.contract.values())

    def _note(self, case: Case, problem: str, wrong: str = "") -> None:
        """Keep the smallest case that went wrong."""
        if self.case is None or size(case) <= size(self.case):
            self.case, self.problem, self.wrong = case, problem, wrong


def size(case: Case) -> tuple[int, int]:
    """Return the size of a case, by which the smaller of two is chosen."""
    return len(case.steps), sum(int(np.size(step.x)) for step in case.steps)
