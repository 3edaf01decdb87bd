"""The table of BatchNorms in the wild: what it says of a report, and the findings' programs."""

import json
import sys

import pytest

from benchmarks import wild, wild_page

REPORT = {
    "checked": 12,
    "of": 47,
    "correct": False,
    "accuracy_contract": False,
    "status": 1,
    "convention": "flax",
    "explanation": None,
    "behaviours": [
        {
            "name": "output",
            "correct": "passed",
            "contract": "failed",
            "problem": "",
            "remark": None,
            "errors": {"y": 13.6},
        },
        {
            "name": "statistics",
            "correct": "failed",
            "contract": "failed",
            "problem": "x | y " * 99,
            "remark": "an empty batch makes y NaN",
            "errors": {"running_var": None, "running_mean": 1.0},
        },
    ],
}
ABOUT = {"version": "1.2", "python": "3.12.1", "examples": 20, "processor": "a 6502"}
FOUND = ABOUT | {"report": REPORT}


def test_a_row_says_what_the_report_says():
    row = wild_page.row(wild.TARGETS[0], FOUND)
    assert row[2:] == ["12 of 47", "**no**", "no (2)", "14", "-", "∞", "flax", "statistics"]


def test_the_page_has_all_that_is_there(tmp_path):
    (tmp_path / "findings").mkdir()
    target = next(target for target in wild.TARGETS if target.settings)
    (tmp_path / target.file).write_text(json.dumps(FOUND))
    other = ABOUT | {"problem": "cannot | import"}
    (tmp_path / wild.TARGETS[0].file).write_text(json.dumps(other))
    finding = {"output": "refuted", "versions": {"torch": "9"}}
    (tmp_path / "findings" / "torch_float16_gradient.json").write_text(json.dumps(finding))
    page = wild_page.page(tmp_path)
    assert "KERAS_BACKEND=numpy python -m npbn.testing keras.layers:BatchNormalization" in page
    assert "cannot \\| import" in page
    assert "with 20 examples of a behaviour" in page
    assert "remark: an empty batch makes y NaN" in page
    assert "import torch" in page
    assert "refuted" in page
    lines = [line.replace("\\|", "") for line in page.splitlines() if line[:1] == "|"]
    assert {line.count("|") for line in lines} == {len(wild_page.COLUMNS) + 1, 4}


def test_a_line_is_reproduced_with_all_that_it_needs():
    keras = next(t for t in wild.TARGETS if t.settings.endswith("torch"))
    line = wild_page.reproduce(keras, FOUND | {"needs": {"torch": "9"}})
    assert "pip install '.[testing]' 'keras==1.2' 'torch==9' && KERAS_BACKEND=torch python" in line
    assert f"--examples 20 --seconds {wild.CASE_SECONDS}`" in line
    assert "'.[testing]' &&" in wild_page.reproduce(wild.TARGETS[0], FOUND)


def test_what_is_missing_is_not_checked():
    assert wild.installed(wild.Target("npbn:BatchNorm1d", "npbn"))
    assert not wild.installed(wild.Target("npbn:BatchNorm1d", "npbn", needs=("no-such-package",)))


@pytest.mark.process
def test_a_finding_that_does_not_end_says_so(tmp_path):
    program = tmp_path / "endless.py"
    program.write_text("while True: pass")
    assert wild.output(program, {}, 0.2) == ["not done after 0.2 s"]


def test_files_of_targets_are_plain_and_differ():
    names = [target.file for target in wild.TARGETS]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set("/: ") for name in names)


def test_every_finding_says_what_it_claims_and_what_came_of_it():
    programs = sorted(wild.FINDINGS.glob("*.py"))
    assert len(programs) >= 6
    for program in programs:
        text = program.read_text()
        assert text.startswith('"""')
        assert '"confirmed" if' in text or '"refuted" if' in text
        assert wild.imported(program)


@pytest.mark.process
def test_npbn_itself_is_checked(tmp_path):
    found = wild.check(wild.Target("npbn:BatchNorm1d", "npbn"), 1, tmp_path)
    assert found["report"]["correct"], found
    missing = wild.check(wild.Target("nowhere:BatchNorm", "npbn"), 1, tmp_path)
    assert "cannot import 'nowhere:BatchNorm'" in missing["problem"]
    assert sys.version.startswith(missing["python"])
