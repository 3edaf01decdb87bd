"""Find the other convention, if any, that explains wrong running statistics."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from npbn.testing.convention_table import CONVENTIONS, Convention
from npbn.testing.names import RUNNING
from npbn.testing.report import FAILED, BehaviourResult
from npbn.testing.trial import BY_NAME, Run, Trial

FIELDS = {"momentum_weighs": ("new", "old"), "stores": ("biased", "unbiased")}
FIELDS["moves_in"] = ("forward", "backward")
TRIED = 10  # examples


def explain(run: Run, results: Sequence[BehaviourResult], own: str, seed: int) -> str | None:
    """Return a line with the convention that explains the running statistics, or None.

    Each other combination of what momentum weighs, which variance is stored and which pass
    moves the statistics is tried, those with the fewest differences first.
    """
    if not any(result.correct == FAILED and result.wrong in RUNNING for result in results):
        return None
    expected = CONVENTIONS[own]
    run.known.clear()
    for values in sorted(itertools.product(*FIELDS.values()), key=lambda v: _differ(expected, v)):
        changes: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
        other = replace(expected, **changes)
        if _differ(expected, values) == 0:
            continue
        trial = Trial(BY_NAME["running statistics"], run, "correct", other).run(TRIED, seed)
        if trial.problem is None and trial.skipped is None:
            return _in_words(expected, other)
    return None


def _differ(expected: Convention, values: tuple[str, ...]) -> int:
    own = [getattr(expected, name) for name in FIELDS]
    return sum(mine != other for mine, other in zip(own, values, strict=True))


def _in_words(expected: Convention, other: Convention) -> str:
    sentences = {
        "stores": f"stores the {other.stores} variance",
        "momentum_weighs": f"takes momentum for the weight of the {other.momentum_weighs} value",
        "moves_in": f"moves the running statistics in {other.moves_in}",
    }
    differing = [name for name in sentences if getattr(expected, name) != getattr(other, name)]
    differences = " and ".join(sentences[name] for name in differing)
    alike = _those_with(other, FIELDS)
    if alike:
        return f"it {differences}, as {_listed(alike)}: --convention {alike[0]}"
    alike = _those_with(other, differing)
    as_others = f", as {_listed(alike)}" if alike else ""
    rest = f"the rest is as in {expected.name}, a combination that no framework here has"
    return f"it {differences}{as_others}; {rest}"


def _those_with(convention: Convention, fields: Collection[str]) -> list[str]:
    return [
        name
        for name, one in CONVENTIONS.items()
        if all(getattr(one, each) == getattr(convention, each) for each in fields)
    ]


def _listed(names: list[str]) -> str:
    return f"{names[0]} does" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} do"
