"""The laboratory's verdicts on a terminal: short lines, whatever the width."""

import pytest

from examples.lab import EXPERIMENTS, report
from examples.lab.experiment import Verdict, experiment
from examples.lab.results import Results

SEEN = "one thing is 59% with BatchNorm and 12% without, which is " + "very " * 30 + "long; more"


@pytest.fixture
def shown(monkeypatch, tmp_path):
    def show(name, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        parts = {"a part that holds": True, "and one that does not": False}
        monkeypatch.setattr(experiment(name), "verdict", lambda _: Verdict(parts, SEEN))
        return report.text(name, Results(tmp_path / "x.json", {}, []))

    return show


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("columns", [40, 80, 300])
def test_no_line_is_wider_than_the_terminal_or_a_hundred_columns(shown, name, columns):
    _, title, *lines = shown(name, columns).split("\n")
    assert title == f"{experiment(name).TITLE}: mixed"
    assert all(len(line) <= min(columns, 100) for line in lines)


def test_claim_source_parts_and_numbers_are_there(shown):
    text = shown("sensitivity", 300)
    about = experiment("sensitivity")
    for line in (f"  claim     {about.CLAIM}", f"            ({about.SOURCE})"):
        assert line in text.splitlines()
    assert "  seen      a part that holds\n  not seen  and one that does not\n" in text
    assert " ".join(text.split()).endswith("long more")
