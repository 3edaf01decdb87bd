"""A type checker accepts npbn and what users write, and finds their mistakes.

It refused net.fc1.weight, a loss that is a float, MSELoss in train_epoch, load and save.
"""

import re
from pathlib import Path

import pytest
from processes import ROOT, run_python

pytest.importorskip("mypy")
pytestmark = pytest.mark.process

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Return a function that checks files strictly and returns what was found."""
    cache = str(tmp_path_factory.mktemp("mypy"))

    def check(*arguments):
        options = "--strict", "--no-error-summary", "--cache-dir", cache
        return run_python("-m", "mypy", *options, *map(str, arguments), code=None, cwd=ROOT).out

    return check


def test_nothing_is_found_in_npbn(mypy):
    assert mypy("-p", "npbn") == ""


def test_what_users_write_is_accepted(mypy):
    assert mypy("--follow-imports=silent", HERE / "user_code.py") == ""


def test_mistakes_are_found(mypy):
    lines = (HERE / "wrong_code.py").read_text().splitlines()
    expected = {
        (number, match[1])
        for number, line in enumerate(lines, start=1)
        if (match := re.search("# expect: (.*)", line))
    }
    out = mypy("--follow-imports=silent", HERE / "wrong_code.py")
    found = re.findall(r"wrong_code\.py:(\d+): error: .*\[(.*)\]", out)
    assert {(int(number), code) for number, code in found} == expected, out
