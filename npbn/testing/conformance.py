"""The suite: try every behaviour on an implementation and report the results."""

import time
from collections.abc import Iterator
from functools import partial

from npbn.testing.behaviours import BEHAVIOURS, Behaviour
from npbn.testing.case import Setup
from npbn.testing.explain import explain
from npbn.testing.limits import Limits
from npbn.testing.names import STATE
from npbn.testing.protocol import BatchNorm, CannotConstructError, Implementation
from npbn.testing.report import (
    FAILED,
    NOT_SUPPORTED,
    NOT_TRIED,
    PASSED,
    BehaviourResult,
    ConformanceReport,
    snippet,
)
from npbn.testing.trial import Run, Trial, run_case
from npbn.testing.worker import Worker

BASIC_EXAMPLES = 10


def check_batch_norm(
    target: object,
    *,
    examples: int = 50,
    seed: int = 0,
    only: str = "",
    convention: str | None = None,
    seconds: float = 10.0,
    warm_up: float = 60.0,
    limit: float = 1800.0,
) -> ConformanceReport:
    """Try every behaviour of a BatchNorm on an implementation.

    The target runs in a separate process (:mod:`npbn.testing.worker`).

    Parameters
    ----------
    target : str, class, function or Implementation
        ``"package.module:object"`` or the object itself: a class or function of the plain
        protocol, of npbn, or of a library that :mod:`npbn.testing.adapters` knows.
    examples : int
        Cases drawn for each behaviour.
    seed : int
        Where they are drawn from.
    only : str
        Try the behaviours whose name contains this.
    convention : str, optional
        Of :data:`npbn.testing.conventions.CONVENTIONS`; takes the place of the target's own.
    seconds : float
        How long one case may take before it counts as never returning.
    warm_up : float
        How long the calls before the first case may take, in which libraries compile.
    limit : float
        Seconds for the whole run; what comes later is not tried.

    Returns
    -------
    ConformanceReport
        An implementation that raises, returns other things than arrays, does not return, or ends
        its process, fails the behaviour, and the suite goes on.

    Raises
    ------
    ValueError
        If there is no such target, or no behaviour's name contains `only`.

    Examples
    --------
    >>> import npbn
    >>> from npbn.testing import check_batch_norm
    >>> report = check_batch_norm(npbn.BatchNorm1d, examples=3, only="output in")
    >>> report.correct, report.accurate
    (True, True)
    """
    check = Check(
        target,
        examples=examples,
        seed=seed,
        only=only,
        convention=convention,
        seconds=seconds,
        warm_up=warm_up,
        limit=limit,
    )
    with check:
        for _ in check:
            pass
        return check.report()


class Check:
    """A check in progress: iterate for the result of one behaviour after the other.

    Parameters are those of :func:`check_batch_norm`. It is a context manager, which starts the
    target's process and ends it.

    Attributes
    ----------
    name : str
        Of the target.
    behaviours : list of Behaviour
        What will be tried.
    problem : str or None
        Why nothing can be.
    """

    def __init__(
        self,
        target: object,
        *,
        examples: int = 50,
        seed: int = 0,
        only: str = "",
        convention: str | None = None,
        seconds: float = 10.0,
        warm_up: float = 60.0,
        limit: float = 1800.0,
    ):
        self.behaviours = find_behaviours(only)
        self.examples, self.seed = examples, seed
        self.results: list[BehaviourResult] = []
        self.problem: str | None = None
        self.explanation: str | None = None
        self.worker: Worker | None = None
        self.name, self.convention = str(target), convention or "pytorch"
        self._start = partial(Worker, target, convention, warm_up, run_case)
        self._limits = seconds, limit

    def __enter__(self) -> "Check":
        try:
            self.worker = self._start()
        except CannotConstructError as error:
            self.problem = str(error)
            return self
        self.name, unsupported, self.convention = self.worker.described
        self.stand_in = Implementation(_elsewhere, self.name, unsupported, self.convention)
        seconds, limit = self._limits
        self.run = Run(self.worker, Limits(seconds, time.monotonic() + limit))
        return self

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.close()

    def __iter__(self) -> Iterator[BehaviourResult]:
        if self.problem is not None:
            return
        self._look_for_what_is_known()
        for behaviour in self.behaviours:
            result = self._try(behaviour)
            self.results.append(result)
            yield result
        self.explanation = explain(self.run, self.results, self.convention, self.seed)

    def report(self) -> ConformanceReport:
        """Return what has been found so far.

        Returns
        -------
        ConformanceReport
            Of what has been checked so far.
        """
        return ConformanceReport(
            self.name,
            tuple(self.results),
            self.examples,
            self.seed,
            len(self.behaviours),
            self.convention,
            self.problem,
            self.explanation,
        )

    def _look_for_what_is_known(self) -> None:
        """Try the basics that were not asked for: what they find is not reported elsewhere."""
        for behaviour in BEHAVIOURS:
            basic = not behaviour.also and set(behaviour.results) <= set(STATE)
            basic = basic and behaviour not in self.behaviours
            if basic and not behaviour.lacks(self.stand_in):
                trial = Trial(behaviour, self.run, "correct").run(BASIC_EXAMPLES, self.seed)
                self.run.learn(trial.wrong)

    def _try(self, behaviour: Behaviour) -> BehaviourResult:
        """Try one behaviour, by both measures."""
        if lacking := behaviour.lacks(self.stand_in):
            reason = "not supported: " + ", ".join(lacking)
            return BehaviourResult(behaviour.name, NOT_SUPPORTED, NOT_SUPPORTED, problem=reason)
        examples = max(1, round(self.examples * behaviour.share))
        trial = Trial(behaviour, self.run, "contract" if behaviour.contract_only else "correct")
        trial.run(examples, self.seed)
        self.run.learn(trial.wrong)
        by_contract = trial
        if trial.problem is None and trial.skipped is None and trial.beyond_contract:
            by_contract = Trial(behaviour, self.run, "contract").run(examples, self.seed)
        verdict, contract = _verdict(trial), _verdict(by_contract)
        found = by_contract if trial.problem is None else trial
        return BehaviourResult(
            behaviour.name,
            "not part" if behaviour.contract_only else verdict,
            contract,
            by_contract.errors or trial.errors,
            found.problem or found.skipped,
            None if found.case is None else snippet(found.case),
            trial.remark,
            found.wrong,
        )


def find_behaviours(only: str = "") -> list[Behaviour]:
    """Return the behaviours whose name contains `only`.

    Parameters
    ----------
    only : str
        A part of the name; empty for all.

    Returns
    -------
    list
        The behaviours, in the order of the report.

    Raises
    ------
    ValueError
        If there is none.
    """
    behaviours = [behaviour for behaviour in BEHAVIOURS if only in behaviour.name]
    if not behaviours:
        names = ", ".join(behaviour.name for behaviour in BEHAVIOURS)
        raise ValueError(f"only: no behaviour contains {only!r}; there are: {names}")
    return behaviours


def _verdict(trial: Trial) -> str:
    if trial.problem is not None:
        return FAILED
    return PASSED if trial.skipped is None else NOT_TRIED


def _elsewhere(setup: Setup) -> BatchNorm:
    raise NotImplementedError("the implementation is in the worker's process")
