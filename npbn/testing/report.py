"""The results of a check by behaviour, as a table and as JSON."""

import json
import math
from dataclasses import asdict, dataclass, field

import numpy as np

from npbn.testing.case import Case, Setup, Step
from npbn.testing.names import GRADIENTS, RUNNING, VECTORS
from npbn.testing.protocol import CAPABILITIES

PASSED, FAILED, NOT_SUPPORTED, NOT_TRIED = "passed", "failed", "not supported", "not tried"
GROUPS = {
    "y": ("y",),
    "gradients": GRADIENTS,
    "statistics": RUNNING,
}


@dataclass(frozen=True)
class BehaviourResult:
    """The result of one behaviour.

    Attributes
    ----------
    name : str
    correct : str
        passed, failed, not supported or not tried: right up to rounding, the tolerance scaled by
        the case's condition. "not part" where a behaviour belongs to the contract alone.
    contract : str
        Likewise for npbn's accuracy contract.
    errors : dict of str to float
        Largest errors seen, by result, in eps of its dtype on the contract's measure.
    problem : str or None
        What went wrong in the smallest failing example, or why it was not tried.
    example : str or None
        Python that builds that example.
    remark : str or None
        What is not wrong, and worth to be known.
    wrong : str
        Which result is wrong, where it is one.
    """

    name: str
    correct: str
    contract: str
    errors: dict[str, float] = field(default_factory=dict)
    problem: str | None = None
    example: str | None = None
    remark: str | None = None
    wrong: str = ""

    @property
    def checked(self) -> bool:
        """Whether there is a verdict."""
        return bool({PASSED, FAILED} & {self.correct, self.contract})

    @property
    def worst(self) -> dict[str, float]:
        """The largest errors of y, gradients and statistics that were measured."""
        return {
            group: max(self.errors[name] for name in names if name in self.errors)
            for group, names in GROUPS.items()
            if set(names) & self.errors.keys()
        }


@dataclass(frozen=True)
class ConformanceReport:
    """All behaviours of an implementation, and the two verdicts.

    Attributes
    ----------
    implementation : str
    results : tuple of BehaviourResult
    examples, seed : int
        Examples tried of each behaviour, and the seed they were drawn from.
    behaviours : int
        How many there are to be tried; fewer `results` if the check was interrupted.
    convention : str
        What the running statistics were held against.
    problem : str or None
        Why nothing could be checked.
    explanation : str or None
        Which other convention the running statistics follow.
    """

    implementation: str
    results: tuple[BehaviourResult, ...]
    examples: int
    seed: int
    behaviours: int = 0
    convention: str = "pytorch"
    problem: str | None = None
    explanation: str | None = None

    @property
    def checked(self) -> int:
        """How many behaviours have been passed or failed."""
        return sum(result.checked for result in self.results)

    @property
    def complete(self) -> bool:
        """Whether every behaviour that is supported has been tried."""
        tried = all(NOT_TRIED not in (r.correct, r.contract) for r in self.results)
        return tried and self.problem is None and len(self.results) >= self.behaviours

    @property
    def status(self) -> int:
        """The exit status: 0 checked and right, 1 wrong, 2 could not be checked."""
        if any(result.correct == FAILED for result in self.results):
            return 1
        return 0 if self.checked and self.complete else 2

    @property
    def correct(self) -> bool:
        """Whether something was checked, and every supported behaviour is right up to rounding."""
        return self.status == 0

    @property
    def accurate(self) -> bool:
        """Whether it is correct and keeps npbn's accuracy contract."""
        return self.correct and all(result.contract != FAILED for result in self.results)

    @property
    def worst(self) -> dict[str, float]:
        """The largest errors of y, gradients and statistics, in eps of the dtype."""
        found: dict[str, float] = {}
        for result in self.results:
            for group, error in result.worst.items():
                found[group] = max(found.get(group, 0.0), error)
        return found

    def table(self) -> str:
        """Return the report as text; the example of the first failure only (JSON has all).

        Returns
        -------
        str
            Text, with line ends inside.
        """
        return "\n".join([self.header(), *map(row, self.results), self.summary()])

    def header(self) -> str:
        """Return the lines above the behaviours.

        Returns
        -------
        str
            Text, with line ends inside.
        """
        title = (
            f"{self.implementation}: {self.examples} examples each, seed {self.seed}, "
            f"convention {self.convention}"
        )
        groups = "".join(f"{group:>11}" for group in GROUPS)
        named = f"{'behaviour':{WIDTH}}  {'correct':13}  {'contract':13}{groups}"
        return f"{title}\n\n{' ' * (WIDTH + 32)}  largest errors / eps\n{named}"

    def summary(self) -> str:
        """Return the lines below the behaviours.

        Returns
        -------
        str
            Text, with line ends inside.
        """
        if self.problem is not None:
            return f"{self.problem}\nnot checked"
        failed = [r for r in self.results if FAILED in (r.correct, r.contract)]
        # What is not even correct goes first: the contract's failures follow from it.
        failed.sort(key=lambda result: result.correct != FAILED)
        lines = [f"{result.name}: {result.problem}" for result in failed]
        lines += [f"{r.name}: {r.problem}" for r in self.results if r.correct == NOT_TRIED]
        lines += [f"remark: {remark}" for remark in self._remarks()]
        if self.explanation is not None:
            lines += [f"convention: {self.explanation}"]
        if failed and failed[0].example is not None:
            lines += ["", f"the smallest example found of: {failed[0].name}"]
            lines += [f"    {line}" for line in failed[0].example.splitlines()]
        if self.status == 1:
            lines += ["", "What an implementation is not meant to do, it can say:"]
            lines += [f"    unsupported = (...)  # of {', '.join(CAPABILITIES)}"]
        return "\n".join(["", *lines, *([""] if lines else []), *self._verdicts()])

    def _remarks(self) -> list[str]:
        return list(dict.fromkeys(r.remark for r in self.results if r.remark is not None))

    def _verdicts(self) -> list[str]:
        worst = ", ".join(f"{name} {error:.3g}" for name, error in self.worst.items())
        correct = {0: "yes", 1: "NO", 2: "not checked"}[self.status]
        broken = any(result.contract == FAILED for result in self.results)
        contract = "NO" if broken or self.status == 1 else correct
        return [
            f"{self.checked} of {self.behaviours} behaviours checked",
            *([f"largest errors / eps:       {worst}"] if worst else []),
            f"correct up to rounding:     {correct}",
            f"npbn's accuracy contract:   {contract}",
        ]

    def to_json(self) -> str:
        """Return the report as JSON.

        Returns
        -------
        str
            Text, with line ends inside.
        """
        content = {
            "implementation": self.implementation,
            "convention": self.convention,
            "examples": self.examples,
            "seed": self.seed,
            "status": self.status,
            "checked": self.checked,
            "of": self.behaviours,
            "correct": self.correct,
            "accuracy_contract": self.accurate,
            "worst": self.worst,
            "problem": self.problem,
            "explanation": self.explanation,
            "behaviours": [asdict(result) for result in self.results],
        }
        return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        return self.table()


WIDTH = 56  # of the longest name of a behaviour


def row(result: BehaviourResult) -> str:
    """Return a behaviour's line of the table."""
    groups = "".join(
        f"{result.worst[group]:11.3g}" if group in result.worst else " " * 11 for group in GROUPS
    )
    return f"{result.name:{WIDTH}}  {result.correct:13}  {result.contract:13}{groups}".rstrip()


def snippet(case: Case) -> str:
    """Return Python that builds a case."""
    lines = [
        "import numpy as np",
        "from npbn.testing import Case, Setup, Step",
        "",
        "case = Case(",
        *_setup(case.setup, "    "),
        "    (",
    ]
    for step in case.steps:
        lines += _step(step)
    return "\n".join([*lines, "    ),", ")"])


def _setup(setup: Setup, indent: str, name: str = "") -> list[str]:
    lines = [
        f"{indent}{name}Setup(",
        f"{indent}    {setup.num_features}, eps={setup.eps!r}, momentum={setup.momentum!r},",
    ]
    for vector in VECTORS:
        if getattr(setup, vector) is not None:
            lines.append(f"{indent}    {vector}={_array(getattr(setup, vector))},")
    lines.append(f"{indent}    num_batches_tracked={setup.num_batches_tracked},")
    lines.append(f"{indent}    dtype=np.dtype({setup.dtype.name!r}), layout={setup.layout!r},")
    return [*lines, f"{indent}),"]


def _step(step: Step) -> list[str]:
    grad = "None" if step.grad_output is None else _array(step.grad_output)
    lines = [f"        Step({_array(step.x)}, {step.training}, {grad},"]
    if (step.layout, step.grad_layout) != ("contiguous", "contiguous"):
        lines.append(f"             layout={step.layout!r}, grad_layout={step.grad_layout!r},")
    if step.load is not None:
        lines += _setup(step.load, "             ", "load=")
    return [*lines, "        ),"]


def _array(array: np.ndarray) -> str:
    values = np.array2string(
        array, separator=", ", threshold=200, floatmode="unique", max_line_width=10**6
    )
    values = " ".join(values.split()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({values}, np.{array.dtype.name}).reshape({array.shape})"


def _plain(value: object) -> object:
    """Return a value that JSON can represent: null for infinity and NaN."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
