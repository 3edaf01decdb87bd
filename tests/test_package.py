"""What the package says of itself in several places is the same in all of them."""

import configparser
import re
from pathlib import Path

import pytest

import npbn

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
in_a_clone = pytest.mark.skipif(not WORKFLOW.exists(), reason="no clone of the repository")


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def setup():
    found = configparser.ConfigParser()
    found.read_string(text("setup.cfg"))
    return found


def versions(setup):
    """Return the versions of Python that are promised."""
    pattern = r"^Programming Language :: Python :: (3\.\d+)$"
    return re.findall(pattern, setup["metadata"]["classifiers"], re.MULTILINE)


def test_changelog_and_citation_are_of_this_version():
    latest, date = re.search(r"^## \[(\S+)\] - (\S+)$", text("CHANGELOG.md"), re.MULTILINE).groups()
    assert latest == npbn.__version__
    assert f"version: {latest}\n" in text("CITATION.cff")
    assert f'date-released: "{date}"\n' in text("CITATION.cff")


def test_every_change_stands_under_a_heading_of_the_format():
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text("CHANGELOG.md"), re.MULTILINE)) <= kinds


def test_the_oldest_python_is_the_one_required(setup):
    assert setup["options"]["python_requires"] == f">={versions(setup)[0]}"


@in_a_clone
def test_the_workflow_has_every_python_and_the_oldest_numpy(setup):
    (row,) = re.findall(r"^ +python: \[(.+)\]$", text(WORKFLOW), re.MULTILINE)
    assert re.findall(r"[\d.]+", row) == versions(setup)
    oldest = re.search(r"numpy>=([\d.]+)", setup["options"]["install_requires"])[1]
    assert f'python: "{versions(setup)[0]}", numpy: "numpy=={oldest}.*"' in text(WORKFLOW)


@in_a_clone
def test_the_workflow_runs_what_ci_runs():
    """The tests as the README has them, and every program that .ci/run runs."""
    (command,) = re.findall(r"^pip install .*pytest.*-m process$", text("README.md"), re.MULTILINE)
    _, *tests = command.split(" && ")
    workflow = text(WORKFLOW)
    assert all(f"run: {test}\n" in workflow for test in tests)
    for program in ("ruff check . && ruff format --check .", "python -m examples.lab --quick"):
        assert program in workflow
        assert program in text(".ci/run")
    compare = re.search(r'^compare="(.+)"$', text(".ci/run"), re.MULTILINE)[1]
    more = re.findall(r'"\$compare (.+) --out', text(".ci/run"))
    assert len(more) == 2
    for words in more:
        assert f"run: {compare} {words}\n" in workflow


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_every_file_it_links_to_is_there(name):
    links = re.findall(r"\]\(([^)]+)\)", text(name))
    assert all((ROOT / link).exists() for link in links if "://" not in link), links
