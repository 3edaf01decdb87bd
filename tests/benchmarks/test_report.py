"""Statistics, tables, targets and pictures, of made-up seconds."""

import json
import runpy
import sys
from itertools import product

import numpy as np
import pytest

from benchmarks import (
    batch_norm,
    inference,
    normalisation,
    report,
    scaling,
    targets,
    train_step,
)
from benchmarks.contenders import ENGINES

CONTEST = {
    "threads": 1,
    "seconds": {"npbn numba": [1e-3, 2e-3, 4e-3], "torch eager": [3e-3, 4e-3, 4e-3], "floor": []},
    "refused": {"jax.jit": "skipped: jax is not installed"},
}


def test_a_ratio_is_taken_within_each_round():
    assert report.ratio(CONTEST, "npbn numba", "torch eager") == pytest.approx([1.5, 2, 2.5])
    assert report.ratio(CONTEST, "npbn numba", "jax.jit") is None
    assert report.ratios([CONTEST], "npbn numba", "torch eager", threads=1) == [2]
    assert report.ratios([CONTEST], "npbn numba", "torch eager", threads=2) == []
    assert report.ratio_cell(CONTEST, "npbn numba", "torch eager") == "2.00 [1.50 to 2.50]"


def test_a_time_is_its_median_and_minimum_or_says_what_is_the_matter():
    assert report.time_cell(CONTEST, "npbn numba") == "2.00 ms (1.00 ms)"
    assert report.time_cell(CONTEST, "jax.jit") == "skipped"
    assert report.time_cell(CONTEST, "floor") == report.time_cell(CONTEST, "MyGrad") == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (6.123e-6, "6.12 µs"),
        (2.634e-4, "263 µs"),
        (9.996e-4, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (1234.0, "1,230 s"),
        (5e-8, "0.0500 µs"),
    ],
)
def test_times_are_written_with_three_digits(seconds, text):
    assert report.duration(seconds) == text


def test_a_table_is_markdown():
    assert report.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


@pytest.mark.parametrize(
    ("measured", "limit", "verdict"),
    [
        (2.0, False, "aim met"),
        (1.0, False, "met"),
        (0.99, False, "**missed**"),
        (None, False, "not measured"),
        (1.0, True, "aim met"),
        (2.0, True, "met"),
        (2.01, True, "**missed**"),
    ],
)
def test_a_target_is_met_or_missed(measured, limit, verdict):
    at_least, aim = (2.0, 1.0) if limit else (1.0, 2.0)
    goal = targets.Goal("step", "torch", at_least, aim, measured, limit)
    assert goal.verdict() == verdict
    assert verdict in targets.table([goal])


def test_exponents_are_fitted_to_the_smaller_and_the_larger_half():
    xs = [8, 16, 32, 64, 128]
    small, large = scaling.halves(xs)
    assert xs[small] == [8, 16, 32]
    assert xs[large] == [32, 64, 128]
    assert scaling.exponent(xs, [x**-0.5 for x in xs]) == pytest.approx(-0.5)


LARGE = batch_norm.IMAGES[-1:]


def contests(cases, contenders, threads=(1,)):
    """Return contests in which every contender takes twice as long as the one before it."""
    return [
        {
            **case,
            "threads": count,
            "seconds": {name: [1e-3 * 2**i] * 3 for i, name in enumerate(contenders)},
            "notes": {"floor": "in C order"} if "floor" in contenders else {},
            "refused": {},
        }
        for count in threads
        for case in cases
    ]


def batch_norms():
    """Return all shapes in float32; whatever is not plain takes 1.5 times as long, 3 alone."""
    found = contests([], batch_norm.CONTENDERS)
    for count, mode, shape in product(
        (1, 2), normalisation.MODES, (*batch_norm.SHAPES[::3], *batch_norm.NEIGHBOURS, *LARGE)
    ):
        case = {"shape": list(shape), "dtype": "float32", "mode": mode}
        (contest,) = contests([case], batch_norm.CONTENDERS, (count,))
        with_one = [batch_norm.alone(engine) for engine in ENGINES if count > 1]
        seconds = contest["seconds"]
        entries = batch_norm.entries_of(case, batch_norm.CONTENDERS, with_one)
        for name, entry in entries.items():
            factor = 3 if name.endswith("1 thread") else 1.5
            plain = seconds.get(entry.contender.removesuffix(", 1 thread"))
            seconds.setdefault(name, [factor * s for s in plain])
        found.append(contest)
    return found


def steps(program, threads=(1,)):
    cases = [
        {"batch": batch, "batch_norm": batch_norm}
        for batch, batch_norm in product(program.BATCHES, (True, False))
    ]
    return contests(cases, program.CONTENDERS, threads)


def sweeps():
    cases = [
        {"sweep": sweep, "size": size, "batch": size if sweep == "batch" else scaling.BATCH}
        for sweep, sizes in scaling.SWEEPS.items()
        for size in sizes
    ]
    return contests(cases, scaling.CONTENDERS)


@pytest.mark.parametrize(
    ("program", "found", "rows"),
    [
        (
            batch_norm,
            batch_norms(),
            [
                "| npbn numba: forward, (60, 100), 1 thread | torch eager | ≥ 4x | ≥ 7.3x "
                "| 4.00x | met |",
                "| npbn numba: forward, (64, 64, 56, 56), 2 threads | one thread | ≥ 1.6x | ≥ 2x "
                "| 3.00x | aim met |",
                "| npbn numpy: forward + backward, beyond, the least, 1 thread | torch eager ",
                "| shape, ratio to npbn numpy | npbn numba | torch eager | torch.compile ",
                "| npbn numpy | npbn numba | 36 of 36 | 0.50 (shape (60, 100), dtype float32, ",
                # 1.5 times as long for 16065 values as for 16384, and for 16705
                "| (63, 255) | 1.53 | 1.53 | 1.53 |",
                "| npbn numba: forward, a value at (65, 257), 2 threads | a value at (64, 256) "
                "| ≤ 1.11x | ≤ 1x | 1.47x | **missed** |",
            ],
        ),
        (
            train_step,
            steps(train_step, threads=(1, 2)),
            [
                "| npbn numba: batch 64, 1 thread | torch eager | ≥ 1.45x | ≥ 1.55x | 4.00x "
                "| aim met |",
                "| npbn numba: batch 1024, 2 threads | jax.jit | ≥ 1x | ≥ 1x | 16.00x | aim met |",
                "| npbn numpy: batch 16, 1 thread | torch eager | ≥ 0.8x | ≥ 0.8x | 2.00x |",
                "| npbn numpy | npbn numba | 20 of 20 | 0.50 (batch 16, batch norm True, 1 thread)",
                "- batch 16, floor: in C order",
            ],
        ),
        (
            inference,
            steps(inference),
            ["| 256 | 256,000 | 128,000 | 64,000 | 32,000 | 16,000 |"],
        ),
        (
            scaling,
            sweeps(),
            [
                "| npbn numpy | batch 256 to 8192 | -1.00 |",
                "| torch eager | batch 8 to 256 | -1.00 |",
            ],
        ),
    ],
)
@pytest.mark.slow
def test_results_become_json_tables_and_a_picture(tmp_path, program, found, rows):
    name = program.__name__.rpartition(".")[2]
    takes_contenders = program is not scaling
    names = [n for n in program.CONTENDERS if n in found[0]["seconds"]]
    tables = program.markdown(found, tuple(names)) if takes_contenders else program.markdown(found)
    report.write(tmp_path, name, found, tables, program.draw)
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    for row in rows:
        assert row in text
    results = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert results["contests"] == found
    assert results["machine"]["processor"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown program 'speed': there is batch_norm, train_step, "),
        (["train_step", "--threads", "1000"], "--threads 1000: this process may use "),
        (["--threads", "1,x"], "argument --threads: expected numbers such as 1,2, got '1,x'"),
        (["--threads", "0"], "argument --threads: expected numbers such as 1,2, got '0'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("benchmarks", run_name="__main__")
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"python -m benchmarks: error: {message}" in lines[0]


def test_quick_leaves_torch_compile_out_and_says_so(capsys):
    assert report.without_compile(("npbn numpy", "torch.compile")) == ("npbn numpy",)
    assert capsys.readouterr().out == "torch.compile: skipped by --quick\n"


def test_a_progress_line_has_npbns_time_and_the_ratios(capsys):
    seconds = {"npbn numpy": [1e-3], "torch eager": [2e-3], "torch eager, dead": [3e-3]}
    contest = {**CONTEST, "seconds": seconds}
    report.progress("batch 64", contest)
    report.progress("batch 64", {**contest, "seconds": {}})
    assert capsys.readouterr().out.splitlines() == [
        "batch 64, 1 thread: npbn numpy 1.00 ms, torch eager 2.00x",
        "batch 64: npbn was not timed",
    ]


def test_a_spread_is_that_of_the_rounds():
    seconds = {"npbn numpy": [1.0] * 5, "torch eager": [1.0, 2.0, 3.0, 4.0, 50.0]}
    low, median, high = report.ratio({"seconds": seconds}, "npbn numpy", "torch eager")
    assert (low, median, high) == (2, 3, 4)
    assert np.isfinite(high)
