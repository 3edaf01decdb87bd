"""The Python of the pages that are not executed when they are built runs as it is printed."""

import re

import pytest
from processes import ROOT

import npbn
from benchmarks import PROGRAMS

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs_and_prints_what_it_says_it_prints(block, monkeypatch, capsys, tmp_path):
    if "distributed" in block:
        try:
            from mpi4py import MPI  # noqa: F401
        except (ImportError, RuntimeError):  # the latter without an MPI library
            pytest.skip("no MPI: pip install '.[mpi]'")
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # it may leave files of its own
    monkeypatch.chdir(tmp_path)
    with npbn.using_engine(npbn.get_engine()):  # one block chooses another
        exec(compile(block, "docs", "exec"), {})
    assert bool(capsys.readouterr().out) == ("print(" in block)


def test_every_command_names_a_file_that_is_there():
    wrong = []
    for page in PAGES:
        for file in re.findall(
            r"\b((?:examples|tests|npbn|benchmarks)/[\w/.-]+\w)", page.read_text()
        ):
            if not (ROOT / file).exists():
                wrong.append(f"{page.name}: {file}")
    assert wrong == []


def test_the_measurements_name_the_programs_that_there_are():
    text = (ROOT / "docs/measurements/index.md").read_text(encoding="utf-8")
    named = text.partition("python -m benchmarks NAME`: ")[2].partition(". ")[0]
    assert set(re.findall(r"`(\w+)`", named)) == set(PROGRAMS)
