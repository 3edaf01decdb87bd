"""Real processes under mpiexec: equality with one process, and how every failure ends.

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
from hypothesis import settings

HERE = Path(__file__).parent
MPIEXEC = Path(sys.executable).parent / "mpiexec"

pytestmark = pytest.mark.skipif(
    not MPIEXEC.exists() or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and mpiexec beside python",
)


class Job(NamedTuple):
    code: int
    seconds: float
    out: list[str]  # by rank
    errors: list[str]
    mpiexec: str  # what it said itself


@pytest.fixture
def run(tmp_path):
    """Run a program on some ranks to its end, which has to come; leave no process."""

    def run(ranks, *arguments, options=(), shell=None, limit=60):
        command = [sys.executable, str(HERE / "programs.py"), *map(str, arguments)]
        if shell is not None:
            command = ["sh", "-c", shell, *command]
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "OPENBLAS_NUM_THREADS": "1",
            "NPBN_OUTPUT": str(tmp_path),
        }
        start = time.monotonic()
        process = subprocess.Popen(
            [str(MPIEXEC), *options, "-n", str(ranks), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=tmp_path,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=limit)
            seconds = time.monotonic() - start
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            left = [pid for pid in map(int, texts(tmp_path, "pid", ranks)) if end(pid)]
            process.communicate()
        assert not left, f"processes that outlived mpiexec: {left}"
        texts_of = (texts(tmp_path, name, ranks) for name in ("out", "err"))
        return Job(process.returncode, seconds, *texts_of, said)

    return run


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


# -- equality ------------------------------------------------------------------------------------


def test_training_on_drawn_splits_is_that_of_one_process(run):
    """On 1, 2, 3 and 4 ranks; hypothesis draws in the program, on all ranks alike."""
    assert_finished(run(4, "equality", 0, 1, 6))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_fifty_steps_on_drawn_splits_are_those_of_one_process(run, ranks, dtype):
    examples = min(settings.default.max_examples // 20, 50)
    assert_finished(run(ranks, "equality", ranks, examples, 50, dtype, limit=500))


def test_a_step_sends_what_the_docstrings_say(run):
    """MLP(4, 3, 2) has two BatchNorm layers of 3 channels, and 41 parameters in one bucket.

    SyncBatchNorm: a gather of 8 · (2 + 2 C) forward, a sum of 8 · 2 C back. DataParallel: a gather
    of 8 · 4, and a sum of the gradients.
    """
    job = run(2, "messages")
    parameters = 3 * 4 + 3 + 3 + 3 * 3 + 3 + 3 + 2 * 3 + 2
    forward, backward = ("gather", 8 * (2 + 2 * 3)), ("sum", 8 * 2 * 3)
    expected = [forward, forward, ("gather", 8 * 4), backward, backward]
    assert job.code == 0, job
    assert job.out[0].strip() == str([*expected, ("sum", 4 * parameters)])


def test_one_rank_needs_no_mpiexec_and_sends_nothing(tmp_path):
    command = [sys.executable, str(HERE / "programs.py"), "messages"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.slow
def test_a_network_of_float16(run):
    assert_finished(run(3, "float16"))


# -- failures ------------------------------------------------------------------------------------

slow = pytest.mark.slow
ERROR = "^npbn.errors.DistributedError: "


def elsewhere(where):
    """Match the three ways to say that rank 1 is elsewhere: its own view, and the others'."""
    return (
        ERROR + f"(rank 1: it is at '{where}' and rank [02] is not"
        f"|rank [02]: it is at '.*' and rank 1 is not"
        f"|rank 1 is at '{where}' and rank [02] at '.*'"
        f"|rank [02] is at '.*' and rank 1 at '{where}')"
        ".*: all ranks have to do the same$"
    )


@pytest.mark.parametrize(
    ("trouble", "own", "others"),
    [
        ("raises", "^ValueError: the disk is full$", "rank 1: ValueError: the disk is full$"),
        ("nan", None, "SyncBatchNorm.3. forward: rank 1: NaN or infinite values$"),
        ("leaves", "^$", "rank 1 has ended, .* at exchange [0-9]+, 'SyncBatchNorm.3. forward'$"),
        pytest.param(
            "leaves_with_text", "^the disk is full$", "rank 1 has ended, after", marks=slow
        ),
        pytest.param(
            "raises_in_backward",
            "^ValueError: the disk is full$",
            "rank 1: ValueError: the disk is full$",
            marks=slow,
        ),
        pytest.param(
            "infinite_weight",
            None,
            "expected a finite loss on all ranks, got rank 1: loss (nan|inf)$",
            marks=slow,
        ),
        pytest.param(
            "infinite_gradient", None, "gradients: rank 1: NaN or infinite values$", marks=slow
        ),
        pytest.param(
            "another_shape",
            r"^npbn.errors.ShapeError: .*\(5, 3\)$",
            r"rank 1: ShapeError: Linear\(4, 3\): .* got \(5, 3\)$",
            marks=slow,
        ),
        pytest.param(
            "another_dtype",
            "^npbn.errors.DtypeError: .*float32, got float64",
            r"rank 1: DtypeError: Linear\(4, 3\): .*float32, got float64",
            marks=slow,
        ),
        pytest.param(
            "another_reduction",
            None,
            r"loss: expected one reduction on all ranks, got 'mean' on \[0 2\]$",
            marks=slow,
        ),
    ],
)
def test_trouble_on_rank_1_ends_all_with_its_name_and_the_reason(run, trouble, own, others):
    """`own`: what rank 1 says; None where it says what the others do."""
    by_rank = {0: ERROR + others, 1: own or ERROR + others, 2: ERROR + others}
    assert_failed(run(3, trouble), 10, by_rank)


@pytest.mark.parametrize(
    ("trouble", "where"),
    [
        ("evaluates", "evaluate"),
        pytest.param("gathers_as_much", "something else", marks=slow),
        pytest.param("gathers_more", "something else", marks=slow),
        pytest.param("sums", "something else", marks=slow),
        pytest.param("broadcasts", "something else", marks=slow),
        pytest.param("in_eval_mode", "loss", marks=slow),
        pytest.param("predicts_in_training", "SyncBatchNorm.3. forward", marks=slow),
    ],
)
def test_a_rank_that_does_something_else_is_named(run, trouble, where):
    assert_failed(run(3, trouble), 10, dict.fromkeys(range(3), elsewhere(where)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([5], "which has 'fc1: .*out_features=3.*', got 'fc1: .*out_features=5"),
        pytest.param(
            [3, "float64"],
            r"'fc1.weight \(3, 4\) float32', got 'fc1.weight .* float64'",
            marks=slow,
        ),
        pytest.param([3, "float32", "frozen"], "got 'fc2.weight frozen'$", marks=slow),
    ],
)
def test_another_network_on_rank_1_is_named_on_all(run, arguments, reason):
    expected = f"{ERROR}DataParallel: rank 1: expected rank 0's network, .*{reason}"
    assert_failed(run(2, "another_network", *arguments), 10, dict.fromkeys(range(2), expected))


@pytest.mark.slow
def test_other_options_of_the_loader_are_named_on_all(run):
    expected = f"{ERROR}DataLoader: rank 1: .*batch_size 5.*, rank 0 has .*batch_size 4"
    assert_failed(run(2, "another_loader"), 10, dict.fromkeys(range(2), expected))


@pytest.mark.parametrize("trouble", ["killed", pytest.param("terminated", marks=slow)])
def test_mpiexec_ends_all_when_a_rank_is_killed(run, trouble):
    """It kills them and says why, unless one of them is faster: then that one names the rank."""
    job = run(3, trouble)
    assert_failed(job, 5, {})
    named = any(re.search(r"rank 1 \(.*\) is gone", text) for text in job.errors)
    assert named or re.search("Killed|Terminated", job.mpiexec), job


@pytest.mark.parametrize("trouble", ["killed", pytest.param("terminated", marks=slow)])
def test_survivors_name_a_rank_that_is_gone(run, trouble):
    """Where mpiexec does not kill them: here it watches the shells, which last."""
    shell = '"$0" "$@"; code=$?; if [ $code -gt 128 ]; then sleep 1.5; fi; exit $code'
    job = run(3, trouble, shell=shell)
    expected = ERROR + r"rank 1 \(process [0-9]+ on .*\) is gone: killed, or it crashed$"
    assert_failed(job, 5, {0: expected, 1: "^$", 2: expected})


@pytest.mark.slow
def test_without_cleanup_survivors_end_and_what_they_say_names_the_rank(run):
    """MPICH 5.0's mpiexec kills them all the same, most times, within a tenth of a second."""
    job = run(3, "killed", options=["-disable-auto-cleanup"])
    assert_failed(job, 5, {})
    for text in job.errors:
        assert "DistributedError" not in text or re.search(r"rank 1 \(.*\) is gone", text)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_within_the_timeout(run):
    """2 s of waiting, and 5 s of grace before the survivors end it."""
    job = run(3, "sleeps", 2)
    expected = (
        ERROR + r"rank 1 \(process [0-9]+ on .*\) did not come to exchange [0-9]+, "
        "'SyncBatchNorm.3. forward', within 2 s$"
    )
    assert_failed(job, 10, {0: expected, 1: "^$", 2: expected})


# -- without MPI ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["ModuleNotFoundError('mpi4py')", "RuntimeError('no libmpi')"])
@pytest.mark.parametrize(
    "call",
    ["communicator()", "SyncBatchNorm(3)", "convert_sync_batch_norm(npbn.BatchNorm1d(3))"],
)
def test_without_mpi_one_line_says_what_to_install(monkeypatch, call, error):
    import npbn
    from npbn import distributed

    class Absent:
        def find_spec(self, name, *_):
            if name.split(".")[0] == "mpi4py":
                raise eval(error)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError) as caught:
        eval(call, {"npbn": npbn, **vars(distributed)})
    expected = "npbn.distributed needs mpi4py and an MPI library: pip install 'npbn[mpi]'"
    assert str(caught.value) == expected


def test_import_npbn_loads_neither_this_package_nor_mpi():
    code = "import sys, npbn; print([m for m in sys.modules if 'distributed' in m or 'mpi4' in m])"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
