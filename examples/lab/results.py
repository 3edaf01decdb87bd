"""The results of an experiment in a file: what is done already, and never half a file."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from examples.lab.experiment import Record, Trial
from npbn.io.atomic import replace


class Results:
    """Trials and their results, read from `path` if they are there, and saved to it.

    Parameters
    ----------
    path : Path
    made_with : dict
        What the results depend on besides the trials, the data set for one.
    trials : list of dict
        All that belong to the experiment.

    Attributes
    ----------
    obstacle : str
        Why the file there cannot be used: it is damaged, or was made with something else. Empty
        if it can, or there is none.
    """

    def __init__(self, path: Path, made_with: dict[str, Any], trials: list[Trial]):
        self.path, self.made_with, self.trials = path, made_with, trials
        self.obstacle = ""
        self._results: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            # `save` writes no NaN, so one that is there is none of its own.
            old = json.loads(path.read_bytes(), parse_constant=_refuse)
            found = {key(entry["trial"]): dict(entry["result"]) for entry in old["results"]}
            if len({frozenset(result) for result in found.values()}) > 1:
                raise ValueError("results of different kinds")
            if old["made_with"] != made_with:
                before = ", ".join(f"{name} {value}" for name, value in old["made_with"].items())
                self.obstacle = f"was made with {before}"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # broken off, or something else altogether
            self.obstacle = "is damaged"
        if not self.obstacle:
            wanted = set(map(key, trials))
            self._results = {name: found[name] for name in found if name in wanted}

    def clear_the_way(self) -> Path | None:
        """Rename a file that cannot be used, so that nothing is lost; return its new path."""
        if not self.obstacle:
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old{number}")).exists():
            number += 1
        return self.path.rename(aside)

    @property
    def missing(self) -> list[Trial]:
        """The trials that have no result."""
        return [trial for trial in self.trials if key(trial) not in self._results]

    @property
    def records(self) -> list[Record]:
        """Trials and results in one, in the order of the trials."""
        return [
            {**trial, **self._results[key(trial)]}
            for trial in self.trials
            if key(trial) in self._results
        ]

    def add(self, trial: Trial, result: dict[str, Any]) -> None:
        """Take in the result of a trial."""
        self._results[key(trial)] = plain(result)

    def save(self) -> None:
        """Write the file, whole or not at all, the same for the same results.

        What another run has put there meanwhile is kept.
        """
        there = Results(self.path, self.made_with, self.trials)
        self._results = there._results | self._results
        entries = [
            json.dumps({"trial": trial, "result": self._results[key(trial)]}, allow_nan=False)
            for trial in self.trials
            if key(trial) in self._results
        ]
        head = json.dumps(self.made_with)
        text = f'{{"made_with": {head},\n"results": [\n' + ",\n".join(entries) + "\n]}\n"
        replace(str(self.path), lambda path: Path(path).write_text(text))


def key(trial: Trial) -> str:
    """Return a trial as text, the same for equal trials."""
    return json.dumps(trial, sort_keys=True)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def plain(value: Any) -> Any:
    """Return NumPy's values as Python's, floats to six digits, None for what is not finite."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
