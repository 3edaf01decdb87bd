"""Programs under mpiexec: run to their end, which is asserted.

What a rank prints goes to a file of its own: see programs.py.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
MPIEXEC = Path(sys.executable).parent / "mpiexec"

needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists() or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and mpiexec beside python",
)


class Job(NamedTuple):
    code: int
    seconds: float
    out: list[str]  # by rank
    errors: list[str]
    mpiexec: str  # what it said itself


def run(folder, ranks, *arguments, options=(), shell=None, limit=60):
    """Run a program on some ranks to its end, which has to come; leave no process."""
    command = [sys.executable, str(HERE / "programs.py"), *map(str, arguments)]
    if shell is not None:
        command = ["sh", "-c", shell, *command]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
        "NPBN_OUTPUT": str(folder),
    }
    start = time.monotonic()
    process = subprocess.Popen(
        [str(MPIEXEC), *options, "-n", str(ranks), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
        seconds = time.monotonic() - start
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        left = [pid for pid in map(int, texts(folder, "pid", ranks)) if end(pid)]
        process.communicate()
    assert not left, f"processes that outlived mpiexec: {left}"
    texts_of = (texts(folder, name, ranks) for name in ("out", "err"))
    return Job(process.returncode, seconds, *texts_of, said)


def texts(folder, name, ranks):
    return [(folder / f"{name}{rank}").read_text() for rank in range(ranks)]


def end(pid):
    """End a process; tell whether it ran. mpiexec may be about to end it."""
    for _ in range(50):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        )
        if state.stdout.strip()[:1] in ("", "Z"):
            return False
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return True


def last_line(text):
    """Return the last line that is Python's: MPI adds one where a rank ends the others."""
    lines = [line for line in text.splitlines() if line and not line.startswith("Abort(")]
    return lines[-1] if lines else ""


def assert_finished(job):
    assert job.code == 0, job
    assert [text.strip() for text in job.out] == [
        f"rank {rank} finished" for rank in range(len(job.out))
    ]
    assert job.errors == [""] * len(job.out)


def assert_failed(job, seconds, by_rank):
    """Assert that no rank finished, and that the last line of each matches its pattern."""
    assert job.code != 0, job
    assert job.seconds < seconds, job
    assert "finished" not in "".join(job.out)
    for rank, pattern in by_rank.items():
        assert re.search(pattern, last_line(job.errors[rank])), f"rank {rank}: {job.errors[rank]}"


def run_alone(*command):
    """Run Python by itself, without mpiexec; return what it printed, and its errors."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OPENBLAS_NUM_THREADS": "1"},
        timeout=60,
    )
    return done.returncode, done.stdout.strip(), done.stderr
