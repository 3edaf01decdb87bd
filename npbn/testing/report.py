"""What a check found: by behaviour, as a table and as JSON."""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from npbn.testing.case import Case
from npbn.testing.protocol import CAPABILITIES

PASSED, FAILED, NOT_SUPPORTED = "passed", "failed", "not supported"


@dataclass(frozen=True)
class BehaviourResult:
    """What was found of one behaviour.

    Attributes
    ----------
    name : str
    correct : str
        passed, failed or not supported: right up to rounding, the tolerance scaled by the
        case's condition. "not part" where a behaviour belongs to the contract alone.
    contract : str
        Likewise for npbn's accuracy contract.
    worst_eps : float or None
        Largest error seen, in units of eps on the contract's measure.
    problem : str or None
        What went wrong in the smallest failing example.
    example : str or None
        Python that builds that example.
    """

    name: str
    correct: str
    contract: str
    worst_eps: float | None = None
    problem: str | None = None
    example: str | None = None


@dataclass(frozen=True)
class ConformanceReport:
    """All behaviours of an implementation, and the two verdicts.

    Attributes
    ----------
    implementation : str
    results : tuple of BehaviourResult
    examples, seed : int
        Examples tried of each behaviour, and the seed they were drawn from.
    """

    implementation: str
    results: tuple[BehaviourResult, ...]
    examples: int
    seed: int

    @property
    def correct(self) -> bool:
        """Whether every supported behaviour is right up to rounding."""
        return all(result.correct != FAILED for result in self.results)

    @property
    def accurate(self) -> bool:
        """Whether it is correct and keeps npbn's accuracy contract."""
        return self.correct and all(result.contract != FAILED for result in self.results)

    def table(self) -> str:
        """Return the report as text; the example of the first failure only (JSON has all)."""
        width = max((len(result.name) for result in self.results), default=0)
        lines = [f"{self.implementation}: {self.examples} examples each, seed {self.seed}", ""]
        lines.append(f"{'behaviour':{width}}  {'correct':13}  {'contract':13}  worst error / eps")
        for result in self.results:
            worst = "" if result.worst_eps is None else f"{result.worst_eps:17.3g}"
            marks = f"{result.correct:13}  {result.contract:13}  {worst}"
            lines.append(f"{result.name:{width}}  {marks}".rstrip())
        failed = [r for r in self.results if FAILED in (r.correct, r.contract)]
        # What is not even correct goes first: the contract's failures follow from it.
        failed.sort(key=lambda result: result.correct != FAILED)
        lines += ["", *(f"{result.name}: {result.problem}" for result in failed)] if failed else []
        if failed and failed[0].example is not None:
            lines += ["", f"the smallest example found of: {failed[0].name}"]
            lines += [f"    {line}" for line in failed[0].example.splitlines()]
        if not self.correct:
            lines += ["", "What an implementation is not meant to do, it can say:"]
            lines += [f"    unsupported = (...)  # of {', '.join(CAPABILITIES)}"]
        lines += [
            "",
            f"correct up to rounding:     {'yes' if self.correct else 'NO'}",
            f"npbn's accuracy contract:   {'yes' if self.accurate else 'NO'}",
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the report as JSON."""
        content = {
            "implementation": self.implementation,
            "examples": self.examples,
            "seed": self.seed,
            "correct": self.correct,
            "accuracy_contract": self.accurate,
            "behaviours": [
                {name: _plain(value) for name, value in asdict(result).items()}
                for result in self.results
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        return self.table()


def snippet(case: Case) -> str:
    """Return Python that builds a case."""
    setup = case.setup
    lines = [
        "import numpy as np",
        "from npbn.testing import Case, Setup, Step",
        "",
        "case = Case(",
        "    Setup(",
        f"        {setup.num_features}, eps={setup.eps!r}, momentum={setup.momentum!r},",
    ]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(setup, name) is not None:
            lines.append(f"        {name}={_array(getattr(setup, name))},")
    lines.append(f"        num_batches_tracked={setup.num_batches_tracked},")
    lines += [f"        dtype=np.dtype({setup.dtype.name!r}),", "    ),", "    ("]
    for step in case.steps:
        grad = "None" if step.grad_output is None else _array(step.grad_output)
        lines.append(f"        Step({_array(step.x)}, {step.training}, {grad}),")
    return "\n".join([*lines, "    ),", ")"])


def _array(array: np.ndarray) -> str:
    values = np.array2string(
        array, separator=", ", threshold=200, floatmode="unique", max_line_width=10**6
    )
    values = " ".join(values.split()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({values}, np.{array.dtype.name}).reshape({array.shape})"


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
