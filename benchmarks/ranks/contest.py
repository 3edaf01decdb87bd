"""Steps on many ranks and in one process, run in turn, round by round."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.ranks.jobs import CONTENDERS, Answer, Job

TURN = 0.04  # seconds that a contender runs in a round


class Entry(NamedTuple):
    """One line of a contest: whose ranks, what they do, and whether all do or rank 0 alone."""

    contender: str
    role: str
    together: bool = True


class Jobs:
    """The ranks of all contenders, so many of each; a context manager."""

    def __init__(self, count: int):
        self.count = count
        self.jobs: dict[str, Job] = {}
        try:
            for contender in CONTENDERS:
                job = self.jobs[contender] = Job(contender, count)
                if job.refused:
                    print(f"{contender}: {job.refused['refused']}: {job.refused['kind']}")
        except BaseException:
            self.close()
            raise

    def contest(
        self,
        about: Mapping[str, Any],
        entries: Mapping[str, Entry],
        batches: Mapping[str, int],
        rounds: int,
    ) -> dict[str, Any]:
        """Prepare every entry, then run all in turn, forwards and backwards through the line.

        Parameters
        ----------
        about : mapping
            What the entries have in common, for the results.
        entries : mapping
            Name to entry.
        batches : mapping
            Name to the samples of all ranks together, or of the one process.
        rounds : int

        Returns
        -------
        dict
            `about`, ``ranks``, ``batches``, ``seconds`` (name to the seconds of a step in each
            round, on the slowest rank), ``spent`` (name to those inside exchanges, the mean over
            the ranks, by kind), ``notes`` and ``refused`` (name to text).
        """
        refused: dict[str, str] = {}
        steps: dict[str, int] = {}
        seconds: dict[str, list[float]] = {}
        spent: dict[str, dict[str, list[float]]] = {}

        def ask(name: str, **message: Any) -> list[Answer]:
            job = self.jobs[entries[name].contender]
            known = job.refused
            answers = [known] if known else job.ask(entries[name].together, **message)
            if "refused" in answers[0]:
                refused[name] = f"{answers[0]['kind']}: {answers[0]['refused']}"
                seconds.pop(name, None)
                if not known:
                    print(f"{name}: not timed: {refused[name]} {dict(about)}", flush=True)
            return answers

        for name, entry in entries.items():
            ask(name, prepare=entry.role, batch=batches[name])
            if name not in refused:
                answers = ask(name, time=entry.role, steps=1)
            if name not in refused:
                first = max(answer["seconds"] for answer in answers)
                steps[name], seconds[name], spent[name] = max(1, round(TURN / first)), [], {}
        for i in range(rounds):
            for name in list(seconds)[:: -1 if i % 2 else 1]:
                answers = ask(name, time=entries[name].role, steps=steps[name])
                if name in refused:
                    continue
                seconds[name].append(max(answer["seconds"] for answer in answers))
                for kind in answers[0]["spent"]:
                    mean = float(np.mean([answer["spent"].get(kind, 0.0) for answer in answers]))
                    spent[name].setdefault(kind, []).append(mean)
        for job in self.jobs.values():
            if not job.refused:
                job.ask(clear=True)
        common = {**about, "ranks": self.count, "rounds": rounds, "batches": dict(batches)}
        spent = {name: kinds for name, kinds in spent.items() if kinds}
        results = {"seconds": seconds, "spent": spent, "notes": {}, "refused": refused}
        return {**common, **results}

    def close(self) -> None:
        """End all ranks."""
        for job in self.jobs.values():
            job.close()

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
