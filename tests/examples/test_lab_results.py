"""The file of an experiment's results: whole, told apart, and never lost."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.lab.results import Results, plain

MADE_WITH = {"budget": "quick", "data": "5 images"}
TRIALS = [{"lr": lr, "norm": norm, "seed": 0} for lr in (0.1, 1e-4) for norm in (True, False)]
RESULT = {"accuracy": 0.5, "losses": [2.5, None]}


def results(path, made_with=MADE_WITH, trials=TRIALS):
    return Results(path / "x.json", made_with, trials)


@pytest.fixture
def half_done(tmp_path):
    found = results(tmp_path)
    for trial in TRIALS[:2]:
        found.add(trial, RESULT)
    found.save()
    return tmp_path


def test_nothing_is_done_at_first(tmp_path):
    found = results(tmp_path)
    assert (found.missing, found.records, found.obstacle) == (TRIALS, [], "")
    assert found.clear_the_way() is None


def test_what_is_done_is_found_again(half_done):
    found = results(half_done)
    assert found.missing == TRIALS[2:]
    assert found.records == [{**trial, **RESULT} for trial in TRIALS[:2]]


def test_the_file_depends_on_the_results_alone(tmp_path, half_done):
    before = (half_done / "x.json").read_bytes()
    found = Results(tmp_path / "y.json", MADE_WITH, TRIALS)
    for trial in reversed(TRIALS[:2]):  # as other processes may finish them
        found.add(dict(reversed(trial.items())), RESULT)
    found.save()
    assert (tmp_path / "y.json").read_bytes() == before


def test_trials_that_are_no_longer_asked_for_are_left_out(half_done):
    assert results(half_done, trials=TRIALS[1:]).missing == TRIALS[2:]


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_broken_off_anywhere_is_moved_aside_whole(half_done, step):
    path = half_done / "x.json"
    whole = path.read_bytes().rstrip()
    for number, length in enumerate(range(0, len(whole), step), start=1):
        path.write_bytes(whole[:length])
        found = results(half_done)
        assert found.obstacle == "is damaged"
        assert found.missing == TRIALS
        assert found.clear_the_way() == half_done / f"x.json.old{number}"
        assert (half_done / f"x.json.old{number}").read_bytes() == whole[:length]
        assert not path.exists()


ENTRIES = [
    "3",
    "{}",
    "NaN",
    "[" * 100_000,
    '{"trial": 3}',
    '{"trial": {}, "result": 3}',
    '{"trial": {}, "result": [1]}',
    '{"trial": {}, "result": {"a": NaN}}',
    '{"trial": {}, "result": {"a": 1}}, {"trial": {"b": 1}, "result": {"c": 1}}',
]
FILES = ["null", "[]", "3", "{}", '{"made_with": 3, "results": []}', '{"results": 3}', "\xff\xfe"]
FILES += [f'{{"made_with": {json.dumps(MADE_WITH)}, "results": [{entry}]}}' for entry in ENTRIES]


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_anything_else_is_told_from_results(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    assert results(tmp_path).obstacle == "is damaged"


def test_results_made_with_something_else_are_moved_aside(half_done):
    other = results(half_done, {**MADE_WITH, "budget": "full"})
    assert other.obstacle == "was made with budget quick, data 5 images"
    assert other.missing == TRIALS
    other.clear_the_way()
    other.save()
    assert results(half_done).obstacle == "was made with budget full, data 5 images"
    assert len(json.loads((half_done / "x.json.old1").read_text())["results"]) == 2


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(values)
def test_all_that_is_saved_comes_back_as_it_is(value):
    made = plain(value)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert plain(made) == made


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_none(value):
    assert plain({"a": (value, np.array([1.0, value]))}) == {"a": [None, [1.0, None]]}


def test_numpy_values_become_plain_ones():
    made = plain({"a": np.arange(2), "b": np.bool_(True), "c": np.float32(0.1), "d": np.float64(2)})
    assert made == {"a": [0, 1], "b": True, "c": 0.1, "d": 2.0}
    assert [type(value) for value in made.values()] == [list, bool, float, float]


def test_what_two_runs_at_once_find_is_kept(tmp_path):
    first, second = results(tmp_path), results(tmp_path)
    first.add(TRIALS[0], RESULT)
    first.save()
    second.add(TRIALS[1], RESULT)
    second.save()
    assert results(tmp_path).missing == TRIALS[2:]
