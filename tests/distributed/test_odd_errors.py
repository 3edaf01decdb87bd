"""An error whose text is hard to have or to send reaches the other ranks all the same.

With text that is no UTF-8, or an error whose ``__str__`` raises, the others waited for 60 s and did
not get the reason.
"""

import pytest
from distributed.mpiexec import assert_failed, needs_mpi
from distributed.mpiexec import run as run_mpi
from distributed.standin import fails, run

import npbn
from npbn.distributed import DataParallel
from npbn.distributed.communicator import agree, broadcast_text

slow = pytest.mark.slow


@pytest.mark.process
@needs_mpi
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("surrogate", r"rank 1: ValueError: \\udcff bad$"),
        ("broken", r"rank 1: Broken, whose text cannot be had \(RuntimeError\)$"),
        pytest.param("no_text", r"rank 1: NoText, whose text cannot .* \(TypeError\)$", marks=slow),
        pytest.param("long", "rank 1: ValueError: éé+$", marks=slow),
        pytest.param("nul", "rank 1: ValueError: bad ?$", marks=slow),
    ],
)
def test_the_others_are_told(tmp_path, kind, reason):
    shell = 'exec "$0" "$(dirname "$1")/odd_errors.py" "$2"'
    job = run_mpi(tmp_path, 2, kind, shell=shell, limit=30)
    assert_failed(job, {0: "^npbn.errors.DistributedError: " + reason})


def test_problems_and_descriptions_may_hold_any_text():
    message = fails(2, lambda comm: agree(comm, "\udcff bad" if comm.rank else "", "here"))
    assert message == "here: rank 1: \\udcff bad"
    texts = run(2, lambda comm: broadcast_text(comm, "layer \udcff é" if not comm.rank else "", ""))
    assert texts == ["layer \udcff é"] * 2
    odd = {"\udcff": npbn.Linear(2, 2)}
    run(2, lambda comm: DataParallel(npbn.Sequential(odd), comm))
