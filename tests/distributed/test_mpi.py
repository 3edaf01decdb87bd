"""Real processes under mpiexec: equality with one process, and the messages of a step."""

import pytest
from distributed.mpiexec import PROGRAMS, assert_finished, needs_mpi
from processes import run_python

pytestmark = [pytest.mark.process, needs_mpi]


def test_training_on_drawn_splits_is_that_of_one_process(run):
    """On 1, 2, 3 and 4 ranks; hypothesis draws in the program, on all ranks alike."""
    assert_finished(run(4, "equality", 0, 1, 6))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "dtype"), [(3, "float32"), (4, "float64")])
def test_fifty_steps_on_drawn_splits_are_those_of_one_process(run, ranks, dtype):
    """By all of the ranks, and by each smaller number of them."""
    assert_finished(run(ranks, "equality", ranks, 2, 50, dtype))


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


def test_one_rank_needs_no_mpiexec_and_sends_nothing():
    assert run_python(PROGRAMS, "messages") == (0, "[]\n", "")


def test_a_communicator_is_made_once_and_is_neither_copied_nor_pickled():
    assert run_python(PROGRAMS, "made") == (0, "rank 0 finished\n", "")


@pytest.mark.slow
def test_a_network_of_float16(run):
    assert_finished(run(3, "float16"))
