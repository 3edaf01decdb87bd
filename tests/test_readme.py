"""The README: one page, whose programs and commands run and whose figures were measured."""

import re

import pytest
from processes import ROOT, run_python

import npbn

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


def test_it_is_one_page():
    assert len(TEXT.splitlines()) <= 150


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{len(block.splitlines())}-lines")
def test_block_runs_and_prints_what_it_says_it_prints(block, monkeypatch, capsys, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # it may leave files of its own
    monkeypatch.chdir(tmp_path)
    with npbn.using_engine(npbn.get_engine()):
        exec(compile(block, "README.md", "exec"), {})
    assert bool(capsys.readouterr().out) == ("print(" in block)


def test_the_share_of_digits_that_is_classified_correctly_is_what_comes_out(capsys, monkeypatch):
    """Another BLAS may round one of 1,000 images to another class."""
    monkeypatch.chdir(ROOT)
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    (stated,) = re.findall(r"(\d+) % of 1,000 others", TEXT)
    assert float(capsys.readouterr().out.strip("%\n")) == pytest.approx(float(stated), abs=0.5)


def test_the_package_index_gets_a_program_that_needs_no_files_and_no_links(
    capsys, monkeypatch, tmp_path
):
    """Relative links and pictures lead nowhere there, and there is no address to make them of."""
    text = (ROOT / "docs/package_index.md").read_text(encoding="utf-8")
    assert "](" not in text
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "package_index.md", "exec"), {})
    assert float(capsys.readouterr().out.strip("%\n")) > 90


def test_there_are_the_first_program_and_the_way_without_torch():
    assert len(BLOCKS) == 2


def test_every_file_it_links_to_is_there():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


PROGRAMS = sorted(set(re.findall(r"python (-m )?(benchmarks|examples[\w./]+|npbn[\w.]+)", TEXT)))


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[1])
def test_every_program_it_names_is_there(program):
    """What they do has tests of its own."""
    assert "usage:" in run_python(*filter(None, (program[0].strip(), program[1])), "--help").out


def test_every_extra_it_installs_is_one():
    declared = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    extras = set(",".join(re.findall(r"\[([a-z,]+)\]'", TEXT)).split(","))
    assert extras
    for extra in extras:
        assert re.search(rf"^{extra} =$", declared, re.M), extra


def rows(text: str, start: str) -> list[list[str]]:
    """Return the cells of the rows of tables that start so."""
    found = re.findall(rf"^\| {re.escape(start)} \|.*", text, re.M)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in found]


@pytest.mark.parametrize("condition", ["10⁰", "10²", "10⁴", "10⁶"])
def test_the_table_of_errors_is_what_was_measured(condition):
    measured = (ROOT / "benchmarks/results/accuracy.md").read_text(encoding="utf-8")
    (shown,) = rows(TEXT, condition)
    numba, numpy, torch, textbook, _ = rows(measured, condition)[0][1:]  # of the output
    assert float(shown[1]) == max(float(numba), float(numpy))
    assert shown[2:] == [torch, textbook]


NORM = "forward + backward, float32, 1 thread"
STEP = "with BatchNorm, 1 thread"
SPEEDS = {
    "BatchNorm1d (64, 256), forward + backward": ("batch_norm", NORM, "(64, 256)"),
    "BatchNorm1d (1024, 256), forward + backward": ("batch_norm", NORM, "(1024, 256)"),
    "BatchNorm1d (4096, 1024), forward + backward": ("batch_norm", NORM, "(4096, 1024)"),
    "BatchNorm2d (64, 16, 28, 28), forward + backward": ("batch_norm", NORM, "(64, 16, 28, 28)"),
    "MLP with BatchNorm, a training step of batch 64": ("train_step", STEP, "64"),
    "MLP with BatchNorm, a training step of batch 1024": ("train_step", STEP, "1024"),
}


@pytest.mark.parametrize("what", SPEEDS)
def test_the_table_of_speed_is_what_was_measured(what):
    page, section, case = SPEEDS[what]
    measured = (ROOT / f"benchmarks/results/{page}.md").read_text(encoding="utf-8")
    part = measured.split(f"## {section}\n")[1].split("\n## ")[0]
    (shown,) = rows(TEXT, what)
    for engine, cell in zip(("numba", "numpy"), shown[1:], strict=True):
        table = part.split(f", ratio to npbn {engine} |")[1].split("\n\n")[0]
        header = [name.strip() for name in table.splitlines()[0].split("|")]
        (row,) = rows(table, case)
        assert row[header.index("torch eager") + 1].split(" ")[0] == cell
