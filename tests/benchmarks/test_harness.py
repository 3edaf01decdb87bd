"""The contest: who is timed, who is not, and what is said of those who are not."""

import json
from functools import partial
from itertools import chain, repeat
from types import SimpleNamespace

import pytest

from benchmarks import harness, task
from benchmarks.harness import Entry, Team
from benchmarks.task import SkipError, Task, WrongError, timed
from benchmarks.worker import Worker

PROGRAM = """
from benchmarks.task import WrongError
WORK = "double"

def problem(case):
    return case["number"]

def prove(problem, task):
    if task.read(task.run()) != 2 * problem:
        raise WrongError("should be twice as much")
"""
CONTENDERS = {
    "wrong": "def double(x): return Task(lambda: 3 * x, lambda y: y)",
    "right": "print('.')\ndef double(x): return Task(lambda: print() or 2 * x, int, 'a note')",
    "absent": "import no_such_library",
    "ends": "import sys\ndef double(x): sys.exit('no more')",
}


@pytest.mark.process
def test_a_contest_times_who_is_right_and_says_why_the_others_are_not(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "doubling.py").write_text(PROGRAM, encoding="utf-8")
    for name, text in CONTENDERS.items():
        text = f"from benchmarks.task import Task\n{text}\n"
        (tmp_path / f"{name}_one.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(harness, "TURN", 0.001)
    entries = {name: Entry(name, {"number": 3}) for name in CONTENDERS}
    with Team("doubling", {name: f"{name}_one" for name in CONTENDERS}, 1) as team:
        contest = team.contest({"number": 3}, entries, rounds=2)
        again = team.contest({"number": 3}, {"right": Entry("right", {"number": 4})}, rounds=1)
    json.dumps(contest)
    assert set(contest["seconds"]) == {"right"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in contest["seconds"].values())
    assert contest["notes"] == {"right": "a note"}
    assert contest["refused"] == {
        "wrong": "wrong: should be twice as much",
        "absent": "skipped: no_such_library is not installed",
        "ends": "failed: its process ended: no more",
    }
    assert len(again["seconds"]["right"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "absent: no_such_library is not installed: skipped" in lines
    assert "wrong: wrong, not timed: should be twice as much {'number': 3}" in lines
    assert "ends: failed, not timed: its process ended: no more {'number': 3}" in lines


def test_every_process_is_told_its_number_of_threads():
    told = harness.environment(2)
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
    assert [told[name] for name in limits] == ["2"] * 4


def program(prove):
    return SimpleNamespace(WORK="work", problem=lambda case: case, prove=prove)


def raises(error):
    def prove(problem, task):
        raise error

    return prove


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (SkipError("no BatchNorm"), {"refused": "no BatchNorm", "kind": "skipped"}),
        (WrongError("off by 2"), {"refused": "off by 2", "kind": "wrong"}),
        (OSError("a\nb"), {"refused": "OSError: a", "kind": "failed"}),
        (ValueError(), {"refused": "ValueError: ", "kind": "failed"}),
    ],
)
def test_a_worker_answers_with_the_reason_for_a_refusal(error, answer):
    contender = SimpleNamespace(work=lambda problem: Task(int, int))
    worker = Worker(contender, program(raises(error)))
    assert worker.answer({"prepare": {}}) == answer
    assert worker.tasks == []


@pytest.fixture
def runs_that_take(monkeypatch):
    """Return a function: runs that take so many seconds each, by a clock of the test's own."""
    now = [0.0]
    monkeypatch.setattr(task, "perf_counter", lambda: now[0])

    def run(seconds):
        now[0] += next(seconds)

    return lambda seconds: partial(run, iter(seconds))


def test_a_worker_repeats_quick_work_and_lets_go_of_it_when_told_to(runs_that_take):
    runs, cleared = [], []
    take = runs_that_take(repeat(1e-4))
    contender = SimpleNamespace(
        work=lambda problem: Task(lambda: runs.append(take()), None),
        clear=lambda: cleared.append(0),
    )
    worker = Worker(contender, program(raises(WrongError("a floor has nothing to prove"))))
    assert worker.answer({"prepare": {}}) == {"ready": 0, "note": ""}
    runs.clear()
    assert worker.answer({"time": 0, "seconds": 0.002})["seconds"] == pytest.approx(1e-4)
    assert len(runs) == 1 + 20
    assert worker.answer({"clear": True}) == {}
    assert worker.tasks == []
    assert cleared == [0]


def test_what_is_compiled_in_a_first_run_is_not_timed(runs_that_take):
    run = runs_that_take(chain([9.0], repeat(1e-3)))
    contender = SimpleNamespace(work=lambda problem: Task(run, None))
    worker = Worker(contender, program(raises(WrongError("a floor has nothing to prove"))))
    worker.answer({"prepare": {}})
    assert worker.answer({"time": 0, "seconds": 1e-3})["seconds"] == pytest.approx(1e-3)


def test_a_contender_may_have_one_thread_where_the_others_have_more(monkeypatch):
    started = []
    monkeypatch.setattr(
        harness, "Process", lambda *arguments: started.append(arguments) or SimpleNamespace()
    )
    team = Team("program", {"npbn": "module"}, 2, {"npbn, 1 thread": "module"})
    assert list(team.processes) == ["npbn", "npbn, 1 thread"]
    assert started == [("module", "program", 2), ("module", "program", 1)]


def test_timed_returns_the_mean_of_the_runs(runs_that_take):
    assert timed(Task(runs_that_take([1.0, 2.0, 6.0]), None), 3) == pytest.approx(3)
