"""Real processes under mpiexec: how every failure ends."""

import re

import pytest
from distributed.mpiexec import assert_failed, needs_mpi
from processes import start_up

pytestmark = [pytest.mark.process, needs_mpi]
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
    assert_failed(run(3, trouble), by_rank)


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
    assert_failed(run(3, trouble), dict.fromkeys(range(3), elsewhere(where)))


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
    assert_failed(run(2, "another_network", *arguments), dict.fromkeys(range(2), expected))


@pytest.mark.slow
def test_other_options_of_the_loader_are_named_on_all(run):
    expected = f"{ERROR}DataLoader: rank 1: .*batch_size 5.*, rank 0 has .*batch_size 4"
    assert_failed(run(2, "another_loader"), dict.fromkeys(range(2), expected))


@pytest.mark.parametrize("trouble", ["killed", pytest.param("terminated", marks=slow)])
def test_mpiexec_ends_all_when_a_rank_is_killed(run, trouble):
    """It kills them and says why, unless one of them is faster: then that one names the rank."""
    job = run(3, trouble)
    assert_failed(job, {})
    named = any(re.search(r"rank 1 \(.*\) is gone", text) for text in job.errors)
    assert named or re.search("Killed|Terminated", job.mpiexec), job


@pytest.mark.parametrize("trouble", ["killed", pytest.param("terminated", marks=slow)])
def test_survivors_name_a_rank_that_is_gone(run, trouble):
    """Where mpiexec does not kill them: here it watches the shells, and rank 1's lasts longest."""
    told = " && ".join(f'grep -q "is gone" "$NPBN_OUTPUT/err{rank}"' for rank in (0, 2))
    shell = '"$0" "$@"; code=$?; if [ $code -gt 128 ]; then '
    shell += f"until {told}; do sleep 0.05; done; fi; exit $code"
    job = run(3, trouble, shell=shell)
    expected = ERROR + r"rank 1 \(process [0-9]+ on .*\) is gone: killed, or it crashed$"
    assert_failed(job, {0: expected, 1: "^$", 2: expected})


@pytest.mark.slow
def test_without_cleanup_survivors_end_and_what_they_say_names_the_rank(run):
    """MPICH 5.0's mpiexec kills them all the same, most times, within a tenth of a second."""
    job = run(3, "killed", options=["-disable-auto-cleanup"])
    assert_failed(job, {})
    for text in job.errors:
        assert "DistributedError" not in text or re.search(r"rank 1 \(.*\) is gone", text)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_within_the_timeout(run):
    """Which has to be long enough for a slow machine's ranks; 5 s later the survivors end it."""
    seconds = round(2 * start_up())
    job = run(3, "sleeps", seconds)
    expected = (
        ERROR + r"rank 1 \(process [0-9]+ on .*\) did not come to exchange [0-9]+, "
        f"'SyncBatchNorm.3. forward', within {seconds} s$"
    )
    assert_failed(job, {0: expected, 1: "^$", 2: expected})
