"""What the compiled engine costs before it is fast: it compiles once, and keeps that on disk."""

import json
import tempfile
from collections.abc import Callable

from benchmarks import report

PROGRAM = """
import json
from time import perf_counter
import numpy as np
import npbn
net, criterion = npbn.MLP(784, 256, 10), npbn.CrossEntropyLoss()
optimizer = npbn.SGD(net.parameters(), lr=0.01)
x, target = np.ones((64, 784), np.float32), np.zeros(64, np.int64)
times = [perf_counter()]
npbn.set_engine("numba")
times.append(perf_counter())
for _ in range(2):
    npbn.train_step(net, x, target, criterion, optimizer)
    times.append(perf_counter())
print(json.dumps(np.diff(times).tolist()))
"""
MOMENTS = ("set_engine", "first step", "second step")
WHERE = ("new environment", "later process")
Seconds = dict[str, dict[str, list[float]]]


def measure(python: Callable[..., str], rounds: int) -> Seconds:
    """Return seconds as where: moment: one number a round; `python` runs a fresh interpreter."""
    found: Seconds = {where: {moment: [] for moment in MOMENTS} for where in WHERE}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for moments in found.values():
                seconds = json.loads(python("-c", PROGRAM, NUMBA_CACHE_DIR=cache))
                for moment, number in zip(MOMENTS, seconds, strict=True):
                    moments[moment].append(number)
    return found


def table(found: Seconds) -> str:
    """Return a section of Markdown."""
    lines = []
    for where, seconds in found.items():
        view = {"seconds": seconds, "refused": {}}
        lines.append([where, *(report.time_cell(view, moment) for moment in MOMENTS)])
    title = "## First calls of the compiled engine, training steps at batch 64"
    return f"{title}\n\n{report.table(['process', *MOMENTS], lines)}"
