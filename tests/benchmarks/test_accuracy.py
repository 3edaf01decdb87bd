"""The accuracy benchmark: what it measures, and what it writes."""

import json
import runpy
import sys

import numpy as np
import pytest
from processes import run_python

from benchmarks import accuracy
from npbn.testing import oracle

ABSENT = """
import runpy, sys
sys.modules["torch"] = sys.modules["numba"] = None
sys.argv = ["benchmarks", "accuracy", "--quick", "--out", sys.argv[1]]
runpy.run_module("benchmarks", run_name="__main__")
"""


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks", run_name="__main__")
    return ended.value.code


@pytest.mark.slow
def test_a_quick_run_writes_three_files_and_npbn_holds_its_contract(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "accuracy", "--quick", "--out", tmp_path / "new" / "folder") == 0
    out = tmp_path / "new" / "folder"
    results = json.loads((out / "accuracy.json").read_text(encoding="utf-8"))
    ratios, errors = np.array(results["ratios"]), results["errors"]
    assert ratios[0] == 1
    assert ratios[-1] == 1e7
    for quantity, lines in errors.items():
        assert list(lines)[:4] == ["npbn numba", "npbn numpy", "torch", "textbook"]
        for line in lines.values():
            assert len(line) == len(ratios)
            assert np.isfinite(line).all()
        for engine in ("npbn numba", "npbn numpy"):
            promised = np.array(lines[engine])[ratios <= accuracy.PROMISED]
            assert (promised <= results["bounds"][quantity]).all(), (engine, quantity)
    assert errors["y"]["textbook"][-1] > 1e4 * errors["y"]["textbook"][0]
    assert errors["y"]["torch"][-1] > 1e4 * errors["y"]["torch"][0]
    rows = (out / "accuracy.md").read_text(encoding="utf-8").splitlines()
    assert sum(row.startswith("| 10") for row in rows) == 4 * 8
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "accuracy.png" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.process
def test_without_torch_and_numba_lines_say_so_and_the_rest_is_measured(tmp_path):
    shown = run_python("-c", ABSENT, tmp_path).out
    for package in ("torch", "numba"):
        assert f"{package} is not installed: skipped" in shown
    results = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))
    assert list(results["errors"]["y"]) == ["npbn numpy", "textbook", accuracy.SQUARES]
    assert (tmp_path / "accuracy.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown program 'speed': there is batch_norm, "),
        (["accuracy", "--out", __file__], "test_accuracy.py: File exists"),
    ],
)
def test_a_wrong_argument_is_one_clear_error_and_status_2(monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_errors_are_those_of_the_contracts_measure():
    setup, step = accuracy.draw(np.random.default_rng(0), (40, 5), ratio=3.0)
    exact = oracle.step(setup, step)
    y = exact.y.copy()
    y[7, 2] += 1e-3
    scale = max(1, abs(setup.weight[2] * exact.x_hat[7, 2]), abs(setup.bias[2]))
    mean, var = exact.running_mean.copy(), exact.running_var * (1 + 1e-3)
    mean[1] += 1e-3
    results = accuracy.Results(y, exact.grad_input, mean, var)
    errors = accuracy.errors_of(results, setup, step, exact)
    eps = np.finfo(np.float32).eps
    std = np.sqrt(exact.var[1])
    assert errors["y"] == pytest.approx(1e-3 / (eps * scale))
    assert errors["grad_input"] == 0
    assert errors["running_mean"] == pytest.approx(1e-3 / (eps * max(abs(mean[1]), std)), rel=2e-3)
    assert errors["running_var"] == pytest.approx(1e-3 / eps)


def test_the_textbook_version_is_right_up_to_rounding_where_nothing_cancels():
    setup, step = accuracy.draw(np.random.default_rng(1), (30, 4, 5), ratio=0.0)
    exact = oracle.step(setup, step)
    for squares in (False, True):
        results = accuracy.textbook(setup, step, squares)
        errors = accuracy.errors_of(results, setup, step, exact)
        assert max(errors.values()) < 100


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.5678, "0.57"), (4.26, "4.3"), (9.99, "10"), (58_123.0, "58,000"), (3.3e7, "3.3e7")],
)
def test_errors_are_written_with_two_digits(error, text):
    assert accuracy.short(error) == text
