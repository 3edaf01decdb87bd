"""Contenders in processes of their own, run in turn, round by round.

Thread pools of two libraries in one process spoil each other's timings, so every contender has
its own process, pinned to the same CPUs and limited to the same number of threads. A contest
prepares the same work in all of them (:mod:`benchmarks.worker` proves each result right first)
and then lets one at a time run, for some milliseconds each, forwards and backwards through the
line: what disturbs the machine in one round disturbs them all, and the ratio within each round
is what counts.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Case = Mapping[str, Any]

ROOT = Path(__file__).parents[1]
TURN = 0.02  # seconds that a contender runs in a round
# With more than one thread a pool goes on looking for work for a while (OpenBLAS: 26 ms), on
# the CPU that the next contender needs.
PAUSE = 0.03
LIMITS = ("OMP", "OPENBLAS", "MKL", "BLIS")


def allowed_cpus() -> list[int]:
    """Return the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def environment(threads: int) -> dict[str, str]:
    """Return the environment, with limits for pools that are sized when they are loaded."""
    limits = {f"{library}_NUM_THREADS": str(threads) for library in LIMITS}
    return {**os.environ, **limits, "NPROC": str(threads), "JAX_PLATFORMS": "cpu"}


class Process:
    """A contender's process; `refused` says why it takes no part, if so."""

    def __init__(self, contender: str, program: str, threads: int):
        cpus = ",".join(str(cpu) for cpu in allowed_cpus()[:threads])
        command = (sys.executable, "-m", "benchmarks.worker", contender, program, cpus)
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, str(threads)],
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
        )
        self.refused: dict[str, str] = {}
        answer = self.receive()
        if "refused" in answer:
            self.refused = answer

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message and return the answer."""
        with contextlib.suppress(OSError):  # receive() finds that it has ended
            print(json.dumps(message), file=self.process.stdin, flush=True)
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Return the next answer; a process that has ended has failed."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()  # until it has said why
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or ["without a word"])[-1]
        self.refused = {"refused": f"its process ended: {last}", "kind": "failed"}
        return self.refused

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Entry(NamedTuple):
    """One line of a contest: who, and what it has to do."""

    contender: str
    case: Case


class Team:
    """The contenders of one program at one number of threads; a context manager.

    Parameters
    ----------
    program : str
        The module that has ``problem``, ``prove`` and WORK, the name of the contenders' function.
    contenders : mapping
        Name to the module that is imported in the contender's process.
    threads : int
    alone : mapping, optional
        More contenders, who have one thread.
    """

    def __init__(
        self,
        program: str,
        contenders: Mapping[str, str],
        threads: int,
        alone: Mapping[str, str] | None = None,
    ):
        self.threads = threads
        self.said: set[str] = set()
        self.processes = {
            name: Process(module, program, count)
            for count, modules in ((threads, contenders), (1, alone or {}))
            for name, module in modules.items()
        }

    def contest(self, about: Case, entries: Mapping[str, Entry], rounds: int) -> dict[str, Any]:
        """Prepare every entry, then run all in turn.

        Parameters
        ----------
        about : mapping
            What the entries have in common, for the results.
        entries : mapping
            Name to entry.
        rounds : int

        Returns
        -------
        dict
            `about`, ``threads``, ``seconds`` (entry to the seconds of one run, for each round),
            and ``notes`` and ``refused`` (entry to text).
        """
        numbers: dict[str, int] = {}
        notes: dict[str, str] = {}
        refused: dict[str, str] = {}
        for name, (contender, case) in entries.items():
            process = self.processes[contender]
            answer = process.refused or process.ask(prepare=case)
            if "refused" in answer:
                refused[name] = f"{answer['kind']}: {answer['refused']}"
                self.say(contender, answer, case)
                continue
            numbers[name] = answer["ready"]
            if answer["note"]:
                notes[name] = answer["note"]
        seconds: dict[str, list[float]] = {name: [] for name in numbers}
        for i in range(rounds):
            for name in list(numbers)[:: -1 if i % 2 else 1]:
                answer = self.processes[entries[name].contender].ask(
                    time=numbers[name], seconds=TURN
                )
                if "refused" in answer:
                    self.say(entries[name].contender, answer, entries[name].case)
                    refused[name] = f"{answer['kind']}: {answer['refused']}"
                    del numbers[name], seconds[name]
                    continue
                seconds[name].append(answer["seconds"])
                if self.threads > 1:
                    time.sleep(PAUSE)
        for process in self.processes.values():
            if not process.refused:
                process.ask(clear=True)
        common = {**about, "threads": self.threads, "rounds": rounds}
        return {**common, "seconds": seconds, "notes": notes, "refused": refused}

    def say(self, contender: str, answer: Mapping[str, str], case: Case) -> None:
        """Print why a contender takes no part: once if it is skipped, else for every case."""
        if answer["kind"] == "skipped":
            line = f"{contender}: {answer['refused']}: skipped"
        else:
            line = f"{contender}: {answer['kind']}, not timed: {answer['refused']} {dict(case)}"
        if line not in self.said:
            self.said.add(line)
            print(line, flush=True)

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.close()
