"""The process a contender lives in: ``python -m benchmarks.worker CONTENDER PROGRAM CPUS THREADS``.

It reads one JSON message a line and answers each with one:

- ``{"prepare": case}``: set the work up and prove its result right; ``{"ready": number}`` names
  it from then on, otherwise ``{"refused": reason, "kind": "skipped" or "wrong" or "failed"}``
- ``{"time": number, "seconds": s}``: repeat the work for about `s`; ``{"seconds": of one run}``
- ``{"clear": true}``: let go of all prepared work
"""

import contextlib
import importlib
import json
import os
import sys
from types import ModuleType
from typing import Any, TextIO

import numpy as np

from benchmarks.task import SkipError, Task, WrongError, timed

ROUGH = 1e-3  # seconds above which one run tells well enough how many fill a turn


def main() -> None:
    """Serve until standard input ends."""
    contender, program, cpus, threads = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
    # Whatever libraries print goes to standard error: standard output is for the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        try:
            module = importlib.import_module(contender)
        except ModuleNotFoundError as error:
            say(answers, {"refused": f"{error.name} is not installed", "kind": "skipped"})
            return
        except SkipError as error:
            say(answers, {"refused": str(error), "kind": "skipped"})
            return
        limit_threads(module, int(threads))
        settle_malloc()
        worker = Worker(module, importlib.import_module(program))
        say(answers, {"ready": contender})
        for line in sys.stdin:
            say(answers, worker.answer(json.loads(line)))


def say(answers: TextIO, message: dict[str, Any]) -> None:
    """Write one message."""
    print(json.dumps(message), file=answers, flush=True)


def limit_threads(module: ModuleType, threads: int) -> None:
    """Limit what the environment has not: BLAS that is loaded, and the library's own pool."""
    with contextlib.suppress(ModuleNotFoundError):
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)
    if hasattr(module, "set_threads"):
        module.set_threads(threads)


def settle_malloc() -> None:
    """Bring glibc's malloc into the state it has in a program that has worked a while.

    It takes large blocks from the system and gives them back at once, at the cost of a page
    fault for every 4 KB, until it has seen a block of that size come back. Otherwise a timing
    would depend on which sizes were measured before it, by up to a factor of 4.
    """
    np.empty(31 << 20, np.uint8)  # just below the largest size that it learns from


class Worker:
    """One contender's prepared work.

    Parameters
    ----------
    contender : module
        Has a function for each program it takes part in, from the program's problem to a Task.
    program : module
        Has ``problem(case)`` and ``prove(problem, task)``, which raises WrongError.
    """

    def __init__(self, contender: ModuleType, program: ModuleType):
        self.contender, self.program = contender, program
        self.tasks: list[Task] = []
        self.seconds: list[float] = []  # of one run, roughly

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one message."""
        if "prepare" in message:
            return self.prepare(message["prepare"])
        if "time" in message:
            return self.time(message["time"], message["seconds"])
        self.tasks.clear()
        self.seconds.clear()
        getattr(self.contender, "clear", lambda: None)()
        return {}

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Set up a piece of work and prove it, or say what is in the way."""
        try:
            problem = self.program.problem(case)
            task = getattr(self.contender, self.program.WORK)(problem)
            if task.read is not None:
                self.program.prove(problem, task)
        except SkipError as error:
            return {"refused": str(error), "kind": "skipped"}
        except WrongError as error:
            return {"refused": str(error), "kind": "wrong"}
        except Exception as error:  # a library's failure is a result, not the benchmark's end
            first_line = (str(error).strip().splitlines() or [""])[0]
            return {"refused": f"{type(error).__name__}: {first_line}", "kind": "failed"}
        self.tasks.append(task)
        timed(task, 1)  # whatever is compiled at a first or second run is compiled now
        first = timed(task, 1)
        self.seconds.append(first if first > ROUGH else min(timed(task, 1) for _ in range(3)))
        return {"ready": len(self.tasks) - 1, "note": task.note}

    def time(self, number: int, seconds: float) -> dict[str, float]:
        """Return the seconds of one run, the mean over about `seconds`."""
        task = self.tasks[number]
        if self.seconds[number] < seconds / 2:
            task.run()  # brings code and data back into the caches after the others' turn
        self.seconds[number] = timed(task, max(1, round(seconds / self.seconds[number])))
        return {"seconds": self.seconds[number]}


if __name__ == "__main__":
    main()
