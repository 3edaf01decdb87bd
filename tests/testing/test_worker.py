"""Whatever a target does to its process is that behaviour's failure, and the check goes on."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import misbehaving_targets
import numpy as np
import pytest
from processes import run_python

import npbn
from npbn.testing import Command, check_batch_norm, class_implementation
from npbn.testing.mutants.running import UpdatedInEval
from npbn.testing.report import FAILED, NOT_SUPPORTED, NOT_TRIED, PASSED
from npbn.testing.textbook import TextbookBatchNorm
from npbn.testing.worker import Worker, WorkerError

pytestmark = pytest.mark.process  # each check has a process of its own

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
QUICK = {"examples": 3, "seconds": 120.0, "warm_up": 120.0}
HURRY = {"examples": 3, "seconds": 5.0, "warm_up": 1.0}  # where something hangs
HANG = ("Loops", "HoldsTheLock")

WORDS = {
    "Exits": "raised SystemExit: 0",
    "ExitsAtOnce": "ended its process (exit status 0)",
    "ExitsWithThree": "ended its process (exit status 3)",
    "SegmentationFault": "ended its process (SIGSEGV)",
    "Aborts": "ended its process (SIGABRT)",
    "Interrupts": "raised KeyboardInterrupt",
    "ClosesItsFiles": "ended its process",
    "Loops": "did not return within 5 seconds",
    "HoldsTheLock": "did not return within 5 seconds",
    "TakesMemory": "Unable to allocate",
    "CannotBeShown": "raised Odd: (its message cannot be shown)",
    "SaysOddThings": "raised ValueError: ŷ → x̂",
}


def by_name(report):
    return {result.name: result for result in report.results}


@needs_fork
@pytest.mark.parametrize("name", WORDS)
def test_what_a_target_does_is_told_and_the_rest_is_checked(name):
    target = class_implementation(getattr(misbehaving_targets, name))
    options = HURRY if name in HANG else QUICK
    report = check_batch_norm(target, only="output in", **options)
    results = by_name(report)
    assert results["output in training"].correct == PASSED
    assert results["output in evaluation"].correct == FAILED
    assert WORDS[name] in results["output in evaluation"].problem
    assert "Step(" in results["output in evaluation"].example
    assert report.status == 1


@pytest.mark.process
@pytest.mark.parametrize("name", ["ExitsAtOnce", "SegmentationFault"])
def test_a_named_target_has_a_fresh_interpreter(name):
    report = check_batch_norm(f"misbehaving_targets:{name}", only="output in", **QUICK)
    results = by_name(report)
    assert [result.correct for result in results.values()] == [PASSED, FAILED]
    assert WORDS[name] in results["output in evaluation"].problem


@needs_fork
def test_after_a_few_that_hang_the_rest_of_their_kind_is_not_tried():
    target = class_implementation(misbehaving_targets.LoopsInBackward)
    report = check_batch_norm(target, only="training", **HURRY)
    results = by_name(report)
    assert results["output in training"].correct == PASSED
    states = [r.correct for name, r in results.items() if "gradient" in name]
    assert set(states) <= {FAILED, NOT_TRIED}
    assert NOT_TRIED in states
    reason = "3 cases of its kind did not return or ended the process"
    assert {r.problem for r in results.values() if r.correct == NOT_TRIED} == {reason}
    assert report.status == 1


@needs_fork
def test_a_first_call_that_compiles_may_take_longer():
    target = class_implementation(misbehaving_targets.SlowToLoad)
    report = check_batch_norm(target, only="output in", examples=3, seconds=1.0, warm_up=60.0)
    assert report.correct, report.table()


def test_beyond_the_limit_of_the_run_nothing_is_tried_and_nothing_is_right():
    report = check_batch_norm("npbn:BatchNorm1d", only="output in", limit=0.0, **QUICK)
    assert [result.correct for result in report.results] == [NOT_TRIED] * 2
    assert (report.status, report.correct, report.accurate, report.checked) == (2, False, False, 0)
    assert "the time limit of the run was over" in report.table()
    assert "correct up to rounding:     not checked" in report.table()


@needs_fork
def test_a_target_without_capabilities_is_not_right():
    target = class_implementation(misbehaving_targets.DoesNothing)
    report = check_batch_norm(target, **QUICK)
    assert {result.correct for result in report.results} <= {NOT_SUPPORTED, "not part"}
    assert (report.status, report.correct, report.accurate, report.checked) == (2, False, False, 0)
    assert f"0 of {report.behaviours} behaviours checked" in report.table()


@needs_fork
def test_a_target_that_cannot_be_made_is_reported_once():
    target = class_implementation(misbehaving_targets.CannotBeMade)
    report = check_batch_norm(target, **QUICK)
    assert (report.status, report.results) == (2, ())
    assert report.table().count("no device") == 1
    assert "CannotBeMade cannot be constructed: RuntimeError: no device" in report.problem


@needs_fork
def test_objects_that_no_other_interpreter_finds_reach_the_worker_by_fork():
    class Mine(TextbookBatchNorm):
        pass

    assert check_batch_norm(Mine, only="output in", **QUICK).correct


def two_threads_begin_with_torch(_implementation):
    import torch

    # From NumPy: to fill a tensor the main thread would use torch's pool and make it anew.
    x, together = torch.from_numpy(np.zeros((300, 700))), threading.Barrier(2)

    def normalise():
        together.wait()
        return torch.nn.functional.batch_norm(x, None, None, training=True).numpy()

    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(normalise) for _ in range(2)]
        return [attempt.result() for attempt in tries]


@needs_fork
def test_threads_of_a_forked_worker_can_begin_with_torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.zeros(300, 700)  # large enough for torch to ask for its pool, which the fork inherits

    class Mine(TextbookBatchNorm):
        pass

    for _ in range(8):  # without a pool of threads that is made anew one in two failed
        with Worker(Mine, warm_up=0) as worker:
            for y in worker.call(two_threads_begin_with_torch, seconds=60):
                np.testing.assert_array_equal(y, 0)


@needs_fork
def test_a_crash_after_fork_prints_no_stack():
    code = """
import faulthandler, sys
sys.path.append("tests")
faulthandler.enable()
from misbehaving_targets import SegmentationFault
from npbn.testing import check_batch_norm

class Mine(SegmentationFault):
    pass

report = check_batch_norm(Mine, examples=1, only="output in evaluation", warm_up=0)
print(report.results[0].problem)
"""
    done = run_python("-c", code)
    assert done.out == "ended its process (SIGSEGV)\n"
    assert done.err == ""


def test_without_fork_such_an_object_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.delattr(os, "fork", raising=False)
    with pytest.raises(ValueError, match=r"put it into a module and give its name"):
        check_batch_norm(class_implementation(TextbookBatchNorm), **QUICK)


@pytest.mark.parametrize(
    "target", [TextbookBatchNorm, npbn.BatchNorm1d, npbn.functional.batch_norm, "npbn:BatchNorm2d"]
)
def test_the_natural_calls(target):
    report = check_batch_norm(target, only="output in", **QUICK)
    assert report.correct, report.table()
    assert report.implementation == getattr(target, "__name__", "BatchNorm2d")


def test_a_worker_computes_by_the_engine_that_is_in_use():
    pytest.importorskip("numba")
    with npbn.using_engine("numba"), Worker(npbn.BatchNorm1d, warm_up=0) as worker:
        assert worker.call(misbehaving_targets.engine_of, seconds=60) == "numba"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:BatchNorm", "cannot import"),
        ("npbn:Linear", "no BatchNorm"),
        (3, "expected a class or a function"),
        (Command("no-such-program-anywhere"), "no-such-program-anywhere"),
    ],
)
def test_what_is_no_target_is_a_value_error_of_one_line(target, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_batch_norm(target, **QUICK)
    assert "\n" not in str(caught.value)


def test_a_worker_that_was_lost_is_replaced_and_closed_at_the_end():
    with Worker("misbehaving_targets:ExitsWithThree", warm_up=0) as worker:
        with pytest.raises(WorkerError, match="exit status 5"):
            worker.call(misbehaving_targets.exit_with, 5, seconds=60)
        assert worker.call(misbehaving_targets.name_of, seconds=60) == "ExitsWithThree"
        process = worker.process
    assert process.wait() < 0


def test_a_wrong_class_that_is_named_is_wrong():
    report = check_batch_norm(UpdatedInEval, only="evaluation leaves", **QUICK)
    assert report.status == 1
