"""The memory of a piece of work, in a process of its own: ``... MODULE WORK CASE``.

Prints the bytes of physical memory as JSON: after importing MODULE (a contender), with the problem
that WORK draws from CASE (JSON) there, and at the peak of three runs. Linux alone tells.
"""

import importlib
import json
import sys
from pathlib import Path

PROGRAMS = {"train_step": "train_step", "conv2d": "conv"}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Measure."""
    contender, work = importlib.import_module(sys.argv[1]), sys.argv[2]
    program = importlib.import_module(f"benchmarks.{PROGRAMS[work]}")
    if hasattr(contender, "set_threads"):
        contender.set_threads(1)
    imported = resident("VmRSS")
    task = getattr(contender, work)(program.problem(json.loads(sys.argv[3])))
    ready = resident("VmRSS")
    RESET.write_text("5", encoding="ascii")  # the peak starts anew
    for _ in range(3):
        task.run()
    print(json.dumps({"imported": imported, "ready": ready, "peak": resident("VmHWM")}))


def resident(key: str) -> int:
    """Return a line of the process's status in bytes."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


if __name__ == "__main__":
    main()
