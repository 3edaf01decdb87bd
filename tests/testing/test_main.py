"""The suite from the command line."""

import json

import pytest

from npbn.testing.__main__ import main

QUICK = ["--examples", "3", "--only", "output in"]


@pytest.fixture
def command(capsys):
    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.parametrize("target", ["npbn:BatchNorm1d", "torch.nn:BatchNorm1d"])
def test_npbn_and_torch_work_as_they_are(command, target):
    pytest.importorskip(target.partition(":")[0])
    status, out, _ = command(target, *QUICK)
    assert status == 0
    assert "output in training" in out
    assert "correct up to rounding:     yes" in out


def test_a_wrong_class_beside_the_caller_fails(command, tmp_path, monkeypatch):
    (tmp_path / "mine_for_this_test.py").write_text(
        "from npbn.testing.mutants.forward import UnbiasedNormalisation as Mine\n"
    )
    monkeypatch.chdir(tmp_path)
    status, out, _ = command("mine_for_this_test:Mine", *QUICK)
    assert status == 1
    assert "correct up to rounding:     NO" in out
    assert "smallest example found" in out


def test_json(command):
    status, out, _ = command("npbn:BatchNorm1d", *QUICK, "--json", "--seed", "3")
    assert status == 0
    assert json.loads(out)["seed"] == 3


def test_a_function_is_a_target(command):
    assert command("npbn.functional:batch_norm", *QUICK)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere:BatchNorm"], "cannot import 'nowhere:BatchNorm'"),
        (["npbn:BatchNorm9d"], "cannot import"),
        (["npbn"], "package.module:object"),
        (["npbn:__version__"], "expected a class or a function"),
        (["npbn:BatchNorm1d", "--only", "flying"], "no behaviour contains 'flying'"),
        (["npbn:BatchNorm1d", "--examples", "0"], "at least 1"),
        (["replay", "nowhere", "npbn:BatchNorm1d"], "nowhere"),
    ],
)
def test_bad_arguments_give_one_error_and_status_2(command, arguments, words):
    status, _, err = command(*arguments)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


def test_export_and_replay(command, tmp_path):
    status, out, _ = command("export", tmp_path / "cases")
    assert status == 0
    assert "cases written" in out
    status, out, _ = command("replay", tmp_path / "cases", "npbn:BatchNorm1d")
    assert status == 0
    assert "contract" in out
    assert "failed" not in out
    status, out, _ = command(
        "replay", tmp_path / "cases", "npbn.testing.mutants.backward:NoMeanTerm"
    )
    assert status == 1
    assert "failed" in out
