"""How a program ends before its work is done: one line, a status, and no traceback."""

import os

import pytest

from npbn.errors import DataError
from npbn.io.ending import run_program


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "name: interrupted; start anew\n"),
        (BrokenPipeError(), 141, ""),
        (ModuleNotFoundError("no", name="tqdm"), 2, "name needs tqdm: pip install x\n"),
        (MemoryError(), 2, "name: error: more memory is needed than is available\n"),
        (DataError("it is\nempty\x1b"), 2, "name: error: it is empty\\x1b\n"),
        (FileExistsError("there"), 2, "name: error: there\n"),
    ],
)
def test_what_can_be_foreseen_is_one_line_and_a_status(capsys, monkeypatch, error, status, line):
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # pytest's own standard output
    found = run_program("name", raising(error), (DataError,), "start anew", "pip install x")
    assert found == status
    assert tuple(capsys.readouterr()) == ("", line)


def test_what_cannot_is_raised():
    with pytest.raises(ZeroDivisionError):
        run_program("name", lambda: 1 // 0, (DataError,))
    assert run_program("name", lambda: 1, ()) == 1


def test_without_more_to_say_the_lines_are_short(capsys):
    assert run_program("name", raising(KeyboardInterrupt()), ()) == 130
    assert run_program("name", raising(ModuleNotFoundError("pip install x", name="y")), ()) == 2
    assert capsys.readouterr().err == "name: interrupted\nname: error: pip install x\n"
