"""The pool of threads: who works, what comes back, errors that come through, a fork that works."""

import os
import sys
import threading

import numpy as np
import pytest
from processes import run_python

import npbn
from npbn.engines import numpy_
from npbn.engines.threads import Workers, _available, _Worker, share

AFTER_A_FORK = """
import os, sys, threading
import numpy as np, npbn
npbn.set_engine(sys.argv[1])
npbn.set_num_threads(2)
npbn.engines.threads.LARGE = 0
bn, x = npbn.BatchNorm1d(1024), np.ones((2048, 1024), np.float32)
expected = bn.predict(x)  # starts the pool
assert threading.active_count() == 2
child = os.fork()
if child == 0:
    right = (bn.predict(x) == expected).all()
    os._exit(7 if right and threading.active_count() == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_parts_are_shared_out_and_their_results_are_in_order(threads):
    threads(3)
    together = threading.Barrier(3, timeout=60)  # passed only by three threads at once

    def work(number):
        if number in (0, 3, 6):
            together.wait()
        return number, threading.get_ident()

    numbers, workers = zip(*share(work, [(i,) for i in range(9)]), strict=True)
    assert numbers == tuple(range(9))
    assert workers[0] == threading.get_ident()
    assert len(set(workers)) == 3


@pytest.mark.parametrize("parts", range(5))
def test_no_more_threads_than_parts_and_the_callers_own_for_one(threads, parts):
    threads(3)
    found = share(lambda i: (i, threading.get_ident()), [(i,) for i in range(parts)])
    assert [i for i, _ in found] == list(range(parts))
    if parts == 1:
        assert found[0][1] == threading.get_ident()


def test_without_threads_all_is_done_by_the_caller(threads):
    threads(3)
    found = share(lambda _: threading.get_ident(), [(i,) for i in range(5)], threaded=False)
    assert set(found) == {threading.get_ident()}


@pytest.mark.parametrize("failing", range(4))
def test_an_error_in_any_thread_comes_through_and_the_next_work_is_done(threads, failing):
    threads(4)

    def work(number):
        if number == failing:
            raise ArithmeticError(number)
        return number

    for _ in range(2):
        with pytest.raises(ArithmeticError, match=str(failing)):
            share(work, [(i,) for i in range(4)])
    assert share(lambda i: i, [(i,) for i in range(4)]) == list(range(4))


@pytest.mark.parametrize("failing", [False, True])
def test_the_same_threads_work_again(failing):
    workers = Workers()
    jobs = [threading.get_ident] * 3
    first = workers.run(jobs)
    if failing:
        with pytest.raises(ZeroDivisionError):
            workers.run([lambda: 1 // 0, *jobs[1:]])
    assert workers.run(jobs) == first


def test_every_call_uses_the_same_pool(threads):
    threads(3)
    first, again = (share(lambda _: threading.get_ident(), [(i,) for i in range(3)]) for _ in "ab")
    assert first == again


@pytest.mark.parametrize("method", ["start", "outcome"])
def test_after_an_interrupt_no_result_is_another_calls(monkeypatch, method):
    """Ctrl-C comes while this thread gives work to the others, or waits for them."""
    workers, go_on, calls = Workers(), threading.Event(), []
    assert workers.run([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    original = getattr(_Worker, method)

    def interrupted_the_second_time(worker, *arguments):
        calls.append(worker)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(worker, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Worker, method, interrupted_the_second_time)
        with pytest.raises(KeyboardInterrupt):
            workers.run([lambda: "old", lambda: "old", lambda: go_on.wait(60)])
    new = [lambda i=i: (go_on.set(), i)[1] for i in range(3)]
    for _ in range(3):
        assert workers.run(new) == [0, 1, 2]


def test_while_the_workers_are_taken_another_thread_does_its_jobs_itself():
    workers = Workers()

    def nested():
        return set(workers.run([threading.get_ident, threading.get_ident]))

    assert workers.run([nested, lambda: 1]) == [{threading.get_ident()}, 1]


def test_results_are_not_kept_alive_by_the_workers(threads):
    threads(2)
    arrays = share(np.ones, [(3,), (3,)])
    references = [sys.getrefcount(array) for array in arrays]
    assert references[0] == references[1]  # the caller's thread keeps none


def test_no_floating_point_warning_in_any_thread(threads, engine, monkeypatch):
    monkeypatch.setattr("npbn.engines.threads.LARGE", 0)
    monkeypatch.setattr(numpy_.batch_norm, "BLOCK", 100)
    threads(3)
    x = np.full((300, 8), 3e38, np.float32)
    layer = npbn.BatchNorm1d(8).eval()
    layer.weight.data[...] = 4
    with np.errstate(all="raise"):
        y = layer(x)  # overflows, in every thread
        layer.backward(y)
    assert np.isposinf(y).all()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", None, True])
def test_a_wrong_number_is_refused_and_changes_nothing(wrong):
    before = npbn.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads: expected a positive integer, got"):
        npbn.set_num_threads(wrong)
    assert npbn.get_num_threads() == before


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("0", None), ("all", None)])
@pytest.mark.process
def test_at_first_it_is_omp_num_threads_or_the_cpus(wanted, threads):
    code = "import npbn, os; print(npbn.get_num_threads(), len(os.sched_getaffinity(0)))"
    done = run_python("-c", code, env={"OMP_NUM_THREADS": wanted})
    found, cpus = map(int, done.out.split())
    assert found == (cpus if threads is None else threads)


@pytest.mark.parametrize(("cpus", "threads"), [(6, 6), (None, 1)])
def test_where_a_process_has_no_affinity_it_is_the_number_of_cpus(monkeypatch, cpus, threads):
    """On macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert _available() == threads


@pytest.mark.process
def test_a_forked_process_has_a_pool_of_its_own(engine):
    run_python("-W", "ignore", "-c", AFTER_A_FORK, engine, code=7)
