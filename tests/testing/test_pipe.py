"""Programs in other languages, through a pipe."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from processes import run_process, start_up

from npbn.testing import Command, check_batch_norm, pipe
from npbn.testing.case import Setup
from npbn.testing.pipe_process import PipeError, RefusedError

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).parent / "pipe_program.py"
EXAMPLES = Path(__file__).parents[2] / "examples" / "testing"


def command(fault="none"):
    return Command(f"'{sys.executable}' '{PROGRAM}' '{fault}'")


def program(fault="none", seconds=30.0):
    return pipe.implementation(command(fault).command, seconds)


def layer_of(implementation):
    vectors = [np.full(3, value, np.float32) for value in (1.5, -0.5, 0.25, 2.0)]
    return implementation.make(Setup(3, 1e-5, 0.1, *vectors))


X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@given(
    arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    )
)
def test_arrays_come_through_to_the_bit(array):
    line = json.dumps({"a": pipe.encode(array)}, allow_nan=False)
    found = pipe.decode(json.loads(line), "a")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_right_program_is_right():
    report = check_batch_norm(command(), examples=2, only="several steps")
    assert report.correct, report.table()


def test_refusals_are_errors_and_the_program_goes_on():
    layer = layer_of(program())
    with pytest.raises(RefusedError, match=r"refused: .*more than 1 value per channel"):
        layer.forward(X[:1], True)
    assert layer.num_batches_tracked == 0
    assert layer.forward(X, True).shape == X.shape
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("closes", r"closed its pipe instead of answering: exit status 3"),
        ("closes its output", r"closed its pipe instead of answering: it is still running"),
        ("half a line", r"closed its pipe instead of answering: exit status 0"),
        ("noise", r"expected a JSON object in one line, got 'computing ...'"),
        ("a number", r"expected a JSON object in one line, got '42'"),
        ("too few values", r"y: 11 values do not make an array of shape \[4, 3\]"),
        ("a wide shape", r"y: 12 values do not make an array of shape \[1180591620717411303424\]"),
        ("no dtype", r"y: expected a dtype of float16, float32, float64, got 'decimal'"),
        ("null", r"y: expected a flat list of numbers"),
        ("nested", r"y: expected a flat list of numbers"),
        ("no output", r"y: expected an object with dtype, shape, values; got 'null'"),
        ("a list", r"y: expected an object with dtype, shape, values; got '\["),
    ],
)
def test_answers_that_are_none(fault, message):
    layer = layer_of(program(fault))
    for _ in range(2):  # the second time too: the program was started anew
        with pytest.raises(PipeError, match=message) as caught:
            layer.forward(X, True)
        assert "\n" not in str(caught.value)


def test_a_late_answer_is_waited_for_no_longer_than_said():
    seconds = round(2 * start_up())  # beside whatever else the machine is doing
    layer = layer_of(program("late", seconds=seconds))
    with pytest.raises(PipeError, match=f"did not answer within {seconds} seconds"):
        layer.forward(X, True)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("another shape", "should have shape"),
        ("another dtype", "should have dtype float32, got float64"),
        ("NaN", "is nan, should be"),
        ("closes", "closed its pipe"),
    ],
)
def test_the_suite_fails_a_wrong_program(fault, problem):
    report = check_batch_norm(command(fault), examples=2, only="output in training")
    assert not report.correct
    assert problem in report.results[0].problem


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "expected a program"),
        ("no_such_program --fast", "No such file"),
        ("'unfinished", "No closing quotation"),
        (f"'{sys.executable}' -c ''", "closed its pipe instead of answering: exit status 0"),
        (f"'{sys.executable}' -c 'print([1])'", "expected a JSON object in one line"),
        (f"'{sys.executable}' '{PROGRAM}' 'of another convention'", "french"),
        (
            f"'{sys.executable}' '{PROGRAM}' 'of a list of conventions'",
            r"convention: .* \['keras'\]",
        ),
        (f"'{sys.executable}' '{PROGRAM}' 'of unknown abilities'", "flight"),
    ],
)
def test_a_command_that_is_no_program_is_an_error_in_one_line(command, message):
    with pytest.raises(ValueError, match=message) as caught:
        pipe.implementation(command)
    assert "\n" not in str(caught.value)


def test_the_example_in_c(tmp_path):
    if (gcc := shutil.which("gcc")) is None:
        pytest.skip("no gcc")
    binary = tmp_path / "batch_norm"
    options = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", str(binary)]
    run_process(gcc, *options, EXAMPLES / "batch_norm.c", "-lm")
    report = check_batch_norm(Command(f"'{binary}'"), examples=3)
    assert report.correct, report.table()


def test_the_example_in_javascript():
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    command = Command(f"'{node}' '{EXAMPLES / 'batch_norm.mjs'}'")
    report = check_batch_norm(command, examples=3)
    assert report.correct, report.table()


def test_a_program_that_crashes_has_refused_nothing():
    report = check_batch_norm(command("closes"), examples=2, only="is refused")
    assert not report.correct, report.table()
