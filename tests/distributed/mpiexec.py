"""Programs under mpiexec: run to their end, which is asserted.

What a rank prints goes to a file of its own: see programs.py.
"""

import importlib.util
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import run_process

PROGRAMS = Path(__file__).parent / "programs.py"
MPIEXEC = Path(sys.executable).parent / "mpiexec"

needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists() or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and mpiexec beside python",
)


class Job(NamedTuple):
    code: int
    out: list[str]  # by rank
    errors: list[str]
    mpiexec: str  # what it said itself


def run(folder, ranks, *arguments, options=(), shell=None, limit=120):
    """Run a program on some ranks to its end; whoever outlives it fails."""
    command = [sys.executable, PROGRAMS, *arguments]
    if shell is not None:
        command = ["sh", "-c", shell, *command]
    done = run_process(
        *(MPIEXEC, *options, "-n", ranks, *command),
        code=None,
        limit=limit,
        env={"NPBN_OUTPUT": str(folder)},
        cwd=folder,
    )
    texts = ([(folder / f"{name}{rank}").read_text() for rank in range(ranks)]
             for name in ("out", "err"))  # fmt: skip
    return Job(done.code, *texts, done.out + done.err)


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


def assert_failed(job, by_rank):
    """Assert that no rank finished, and that the last line of each matches its pattern."""
    assert job.code != 0, job
    assert "finished" not in "".join(job.out)
    for rank, pattern in by_rank.items():
        assert re.search(pattern, last_line(job.errors[rank])), f"rank {rank}: {job.errors[rank]}"
