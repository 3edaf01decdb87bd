"""The README's Python runs as it is printed."""

import re
from pathlib import Path

import pytest

import npbn
from npbn.testing import check_batch_norm, class_implementation

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.fixture(autouse=True)
def same_engine():
    """Leave the engine as it was: one block chooses another."""
    with npbn.using_engine(npbn.get_engine()):
        yield


def test_there_is_something_to_run():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{len(block.splitlines())}-lines")
def test_block_runs_and_prints_what_it_says_it_prints(block, monkeypatch, capsys, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # it may leave files of its own
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert bool(capsys.readouterr().out) == ("print(" in block)


def test_the_worked_example_has_the_bugs_that_are_told_of_it():
    (block,) = (block for block in BLOCKS if "class MyBatchNorm" in block)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    implementation = class_implementation(names["MyBatchNorm"])
    results = check_batch_norm(implementation, examples=20, only="nning statistics").results
    results += check_batch_norm(implementation, examples=20, only="gradient of the input").results
    assert {result.name for result in results if result.correct == "failed"} == {
        "running statistics",
        "running statistics in float64",
        "gradient of the input, evaluation",
    }


def test_every_file_it_links_to_is_there():
    text = (ROOT / "README.md").read_text()
    links = [
        link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link and link[0] != "#"
    ]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
