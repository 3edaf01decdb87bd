"""The pool of threads: same bits for any number, errors that come through, a fork that works."""

import threading

import numpy as np
import pytest
from helpers import assert_same_bits
from processes import run_python

import npbn
from npbn.engines.threads import share

pytestmark = pytest.mark.usefixtures("engine")
AFTER_A_FORK = """
import os, sys, threading
import numpy as np, npbn
from npbn.engines.numpy_ import batch_norm as passes
npbn.set_num_threads(2)
passes.THREADED_BYTES = 0
bn, x = npbn.BatchNorm1d(1024), np.ones((2048, 1024), np.float32)
bn.predict(x)  # starts the pool
child = os.fork()
if child == 0:
    bn.predict(x)
    os._exit(7 if threading.active_count() == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def restored():
    before = npbn.get_num_threads()
    yield
    npbn.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(700, 30), (101, 3, 40)])
def test_any_number_of_threads_gives_the_same_bits(restored, dtype, shape):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(1, 2, (2, *shape)).astype(dtype)

    def results():
        layer = npbn.BatchNorm1d(shape[1], dtype=dtype)
        y = layer(x)
        return [y, layer.backward(grad), layer.weight.grad, layer.running_var, layer.predict(x)]

    npbn.set_num_threads(1)
    expected = results()
    for threads in (2, 3, 8):
        npbn.set_num_threads(threads)
        for found, alone in zip(results(), expected, strict=True):
            assert_same_bits(found, alone)


def test_parts_are_shared_out_and_their_results_are_in_order(restored):
    npbn.set_num_threads(3)
    together = threading.Barrier(3, timeout=60)  # passed only by three threads at once

    def work(number):
        if number in (0, 3, 6):
            together.wait()
        return number, threading.get_ident()

    numbers, threads = zip(*share(work, [(i,) for i in range(9)]), strict=True)
    assert numbers == tuple(range(9))
    assert threads[0] == threading.get_ident()
    assert len(set(threads)) == 3


def test_an_error_in_a_thread_comes_through(restored):
    npbn.set_num_threads(2)

    def work(number):
        if number:
            raise ArithmeticError(number)

    with pytest.raises(ArithmeticError, match="1"):
        share(work, [(0,), (1,)])


def test_no_floating_point_warning_in_any_thread(restored):
    npbn.set_num_threads(3)
    x = np.full((300, 8), 3e38, np.float32)
    layer = npbn.BatchNorm1d(8).eval()
    layer.weight.data[...] = 4
    with np.errstate(all="raise"):
        y = layer(x)  # overflows, in every thread
        layer.backward(y)
    assert np.isposinf(y).all()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", None])
def test_a_wrong_number_is_refused_and_changes_nothing(wrong):
    before = npbn.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads: expected a positive integer, got"):
        npbn.set_num_threads(wrong)
    assert npbn.get_num_threads() == before


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("0", None), ("all", None)])
@pytest.mark.slow
@pytest.mark.process
def test_at_first_it_is_omp_num_threads_or_the_cpus(wanted, threads):
    code = "import npbn, os; print(npbn.get_num_threads(), len(os.sched_getaffinity(0)))"
    done = run_python("-c", code, env={"OMP_NUM_THREADS": wanted})
    found, cpus = map(int, done.out.split())
    assert found == (cpus if threads is None else threads)


@pytest.mark.process
def test_a_forked_process_has_a_pool_of_its_own():
    run_python("-W", "ignore", "-c", AFTER_A_FORK, code=7)
