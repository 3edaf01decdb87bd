"""What npbn means to reach, beside what was measured: losses as plainly as wins."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import report

# What the compiled engine has to reach, in torch eager's speed unless another is named: at least,
# and the aim, which is what a prototype reached (Zen 3) where that is more. With two threads the
# same, against torch with two.
Bounds = tuple[float, float]
BATCH_NORM: dict[str, dict[tuple[int, ...], Bounds]] = {
    "forward": {
        (60, 100): (4, 7.3),
        (64, 256): (3, 4.6),
        (256, 256): (2, 2.4),
        (1024, 256): (1.5, 1.7),
    },
    "forward + backward": {
        (60, 100): (4, 17),
        (64, 256): (3, 6.2),
        (256, 256): (2, 3.5),
        (1024, 256): (1.5, 1.75),
    },
    "eval": {
        (60, 100): (3, 6.8),
        (64, 256): (2.5, 4.6),
        (256, 256): (2, 2.6),
        (1024, 256): (1.5, 2.1),
    },
}
LARGE: Bounds = (1.2, 1.2)  # BatchNorm1d beyond 1 MB, whatever the mode
IMAGES: dict[str, Bounds] = {"forward": (4, 6), "forward + backward": (2, 2), "eval": (1.2, 1.2)}
STEP: dict[int, Bounds] = {16: (1.7, 2.08), 64: (1.45, 1.55), 256: (1.25, 1.28), 1024: (1.1, 1.1)}
STEP_JAX: dict[int, Bounds] = {16: (0.9, 0.96), 64: (0.95, 1.05), 256: (1.05, 1.12), 1024: (1, 1)}
ONE_IMAGE: Bounds = (2.0, 2.1)
CNN_STEP: dict[int, Bounds] = {64: (1.3, 1.3), 256: (1.0, 1.0)}
CONV: Bounds = (0.8, 0.8)
TWO_THREADS: Bounds = (1.6, 2.0)  # against one, BatchNorm from 1 MB on
NEIGHBOUR: Bounds = (1 / 0.9, 1)  # time a value at a shape beside an even one, at most

# What the NumPy engine aims at. It is there to be read: a miss is reported, and clarity wins.
NUMPY_64_256, NUMPY_SMALL, NUMPY_LARGE, NUMPY_IMAGES = 0.4, 0.3, 0.2, 0.3
# Up to 256 samples no slower than the steps of the version before the engines, which had 0.81 to
# 1.02 of torch's speed (Zen 3).
NUMPY_STEP = 0.8


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
    """Adds goals to a list, for one engine and a setting such as "1 thread"."""

    def __init__(self, goals: list[Goal], engine: str, setting: str):
        self.goals, self.engine, self.setting = goals, engine, setting

    def faster(
        self, what: str, against: str, at_least: float, aim: float, measured: float | None
    ) -> None:
        """Add a ratio that should be large: the other's time in npbn's."""
        what = f"{self.engine}: {what}, {self.setting}"
        self.goals.append(Goal(what, against, at_least, aim, measured))

    def within(
        self, what: str, against: str, at_most: float, aim: float, measured: float | None
    ) -> None:
        """Add a ratio that should be small: npbn's cost in the other's."""
        what = f"{self.engine}: {what}, {self.setting}"
        self.goals.append(Goal(what, against, at_most, aim, measured, True))


def table(goals: Sequence[Goal]) -> str:
    """Return the targets as a section of Markdown, with how many are held."""
    lines = []
    for goal in goals:
        bound, aim = (f"{'≤' if goal.limit else '≥'} {value:.3g}x" for value in goal[2:4])
        measured = "-" if goal.measured is None else f"{goal.measured:.2f}x"
        lines.append([goal.what, goal.against, bound, aim, measured, goal.verdict()])
    head = ["what", "against", "target", "aim", "measured", "verdict"]
    measured = [goal for goal in goals if goal.measured is not None]
    held = sum(not goal.verdict().startswith("**") for goal in measured)
    summary = f"Held: {held} of the {len(measured)} that were measured."
    return f"## Targets\n\n{summary}\n\n{report.table(head, lines)}"
