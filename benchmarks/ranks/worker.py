"""One rank: ``[mpiexec -n P] python -m benchmarks.ranks.worker CONTENDER PORT RANK RANKS FOLDER``.

It connects to PORT of this machine, says which rank it is, and then answers one JSON message a
line with one, as :mod:`benchmarks.worker` does; between them it sleeps. A rank of MPI's does not
need RANK and RANKS. Messages, to all ranks ("together") or to rank 0 alone:

- ``{"prepare": role, "batch": samples}``: set up a step on this rank's shard of a batch, and
  prove its result right; ``{}``, or ``{"refused": reason, "kind": "skipped" or "wrong"}``
- ``{"time": role, "steps": n}``: ``{"seconds": of one step, "spent": {...}}``, after a barrier if
  all ranks work
- ``{"exchange": kind, "bytes": n, "times": n}``: ``{"seconds": [of each]}``
- ``{"clear": true}``: let go of all prepared steps
"""

import importlib
import json
import os
import socket
import sys
from typing import Any

from benchmarks import harness
from benchmarks.ranks import shards
from benchmarks.task import SkipError, Task, WrongError, timed
from benchmarks.worker import limit_threads, settle_malloc


def main() -> None:
    """Serve until the connection ends."""
    contender, port, rank, ranks, folder = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        # A file for each direction: one for both would mix their buffers up.
        questions = connection.makefile("r", encoding="utf-8")
        answers = connection.makefile("w", encoding="utf-8")

        def say(message: dict[str, Any]) -> None:
            print(json.dumps(message), file=answers, flush=True)

        try:
            module = importlib.import_module(contender)
        except ModuleNotFoundError as error:
            say({"refused": f"{error.name} is not installed", "kind": "skipped"})
            return
        limit_threads(module, 1)
        worker = Worker(module.Ranks(int(rank), int(ranks), folder))
        pin(worker.ranks.rank)
        settle_malloc()
        say({"rank": worker.ranks.rank, "about": worker.ranks.about()})
        for line in questions:
            say(worker.answer(json.loads(line)))


def pin(rank: int) -> None:
    """Keep to one CPU, with all threads that there are by now, the libraries' own included."""
    if hasattr(os, "sched_setaffinity"):
        cpus = harness.allowed_cpus()
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), [cpus[rank % len(cpus)]])


class Worker:
    """A rank's prepared steps; `ranks` is the contender's ``Ranks``."""

    def __init__(self, ranks: Any):
        self.ranks = ranks
        self.tasks: dict[str, Task] = {}  # by role

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one message."""
        if "prepare" in message:
            return self.prepare(message["prepare"], message["batch"])
        if "time" in message:
            return self.time(message["time"], message["steps"], message["together"])
        if "exchange" in message:
            kind, size, times = (message[key] for key in ("exchange", "bytes", "times"))
            return {"seconds": self.ranks.exchange(kind, size, times)}
        self.tasks.clear()
        return {}

    def prepare(self, role: str, batch: int) -> dict[str, Any]:
        """Set up a step and prove it, or say what is in the way.

        Any other error ends this process: ranks that would wait for it end with it.
        """
        problem = shards.draw(batch)
        try:
            task = self.ranks.task(role, problem)
            if task.read is not None:
                self.ranks.prove(role, problem, task)
        except (SkipError, WrongError) as error:
            kind = "skipped" if isinstance(error, SkipError) else "wrong"
            return {"refused": str(error), "kind": kind}
        self.tasks[role] = task
        return {}

    def time(self, role: str, steps: int, together: bool) -> dict[str, Any]:
        """Return the seconds of one step, the mean over some, and those inside exchanges."""
        task, ranks = self.tasks[role], self.ranks
        task.run()  # brings code and data back into the caches after the others' turn
        ranks.spent.clear()
        if together:
            ranks.barrier()
        seconds = timed(task, steps)
        return {"seconds": seconds, "spent": {k: v / steps for k, v in ranks.spent.items()}}


if __name__ == "__main__":
    main()
