"""A type checker accepts what users write, and finds their mistakes.

Issue 18: net.fc1.weight, a loss that is a float, MSELoss in train_epoch, load and save.
"""

import re
from pathlib import Path

import pytest
from processes import ROOT, run_python

pytest.importorskip("mypy")
pytestmark = pytest.mark.process

HERE = Path(__file__).parent
MYPY = ("-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", "--cache-dir")


def checked(file, cache, code):
    done = run_python(*MYPY, str(cache), str(HERE / file), code=code, cwd=ROOT)
    return done.out


def test_what_users_write_is_accepted(tmp_path):
    assert checked("user_code.py", tmp_path, 0) == ""


def test_mistakes_are_found(tmp_path):
    lines = (HERE / "wrong_code.py").read_text().splitlines()
    expected = {
        (number, match[1])
        for number, line in enumerate(lines, start=1)
        if (match := re.search("# expect: (.*)", line))
    }
    out = checked("wrong_code.py", tmp_path, 1)
    found = re.findall(r"wrong_code\.py:(\d+): error: .*\[(.*)\]", out)
    assert {(int(number), code) for number, code in found} == expected, out
