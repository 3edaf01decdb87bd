"""The memory of a training step, in a process of its own: ``python -m benchmarks.memory MODULE N``.

Prints the bytes of physical memory as JSON: after importing MODULE (a contender), with the
network and a batch of N there, and at the peak of three steps. Linux alone tells.
"""

import importlib
import json
import sys
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Measure."""
    contender = importlib.import_module(sys.argv[1])
    from benchmarks import network

    if hasattr(contender, "set_threads"):
        contender.set_threads(1)
    imported = resident("VmRSS")
    case = {"batch": int(sys.argv[2]), "batch_norm": True, "width": 256}
    task = contender.train_step(network.draw(case))
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
