"""The limits of time of a check and of a replay."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

GIVES_UP_AFTER = 3  # cases of one kind that ended the process or did not return


@dataclass
class Limits:
    """How long a case and the run may take, and how often a kind of case may be lost.

    Attributes
    ----------
    seconds : float
        That a case may take.
    deadline : float
        On the monotonic clock, for all of them.
    lost : Counter
        How often a kind of case ended the process or did not return.
    """

    seconds: float
    deadline: float
    lost: Counter[tuple[Any, ...]] = field(default_factory=Counter)

    def reason_to_skip(self, kind: tuple[Any, ...]) -> str | None:
        """Return why a case of a kind is not tried, or None."""
        if time.monotonic() > self.deadline:
            return "the time limit of the run was over"
        if self.lost[kind] >= GIVES_UP_AFTER:
            return f"{GIVES_UP_AFTER} cases of its kind did not return or ended the process"
        return None
