"""What npbn means to reach, beside what was measured: losses as plainly as wins."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import report


class Goal(NamedTuple):
    """One target: `at_least` has to be reached, `aim` is better still.

    `limit` turns them round: the measured number may be no more.
    """

    what: str
    against: str
    at_least: float
    aim: float
    measured: float | None
    limit: bool = False

    def verdict(self) -> str:
        """Return what has been reached."""
        if self.measured is None:
            return "not measured"

        def reaches(value: float) -> bool:
            return self.measured <= value if self.limit else self.measured >= value

        return "aim met" if reaches(self.aim) else "met" if reaches(self.at_least) else "**missed**"


class Goals:
    """Adds goals to a list, for one setting such as "1 thread"."""

    def __init__(self, goals: list[Goal], setting: str):
        self.goals, self.setting = goals, setting

    def faster(
        self, what: str, against: str, at_least: float, aim: float, measured: float | None
    ) -> None:
        """Add a ratio that should be large: the other's time in npbn's."""
        self.goals.append(Goal(f"{what}, {self.setting}", against, at_least, aim, measured))

    def within(
        self, what: str, against: str, at_most: float, aim: float, measured: float | None
    ) -> None:
        """Add a ratio that should be small: npbn's cost in the other's."""
        self.goals.append(Goal(f"{what}, {self.setting}", against, at_most, aim, measured, True))


def table(goals: Sequence[Goal]) -> str:
    """Return the targets as a section of Markdown."""
    lines = []
    for goal in goals:
        bound, aim = (f"{'≤' if goal.limit else '≥'} {value:g}x" for value in goal[2:4])
        measured = "-" if goal.measured is None else f"{goal.measured:.2f}x"
        lines.append([goal.what, goal.against, bound, aim, measured, goal.verdict()])
    head = ["what", "against", "target", "aim", "measured", "verdict"]
    return f"## Targets\n\n{report.table(head, lines)}"


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """Return the geometric mean, None of no numbers."""
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else None
