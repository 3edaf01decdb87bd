"""The suite from the command line."""

import json
import signal
import sys

import pytest
from processes import needs_signals, run_process, run_python, started

from npbn.testing.__main__ import main
from npbn.testing.behaviours import BEHAVIOURS
from npbn.testing.report import WIDTH

pytestmark = pytest.mark.process  # each check has a process of its own

QUICK = ["--examples", "3", "--only", "output in"]
TARGETS = "tests"  # the folder with misbehaving_targets.py


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
    assert "2 of 2 behaviours checked" in out
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
    content = json.loads(out)
    assert (content["seed"], content["status"], content["checked"]) == (3, 0, 2)
    assert 0 < content["worst"]["y"] <= 1


def test_a_function_is_a_target(command):
    assert command("npbn.functional:batch_norm", *QUICK)[0] == 0


def test_the_list_shows_every_behaviour_and_what_it_needs(command):
    status, out, _ = command("--list")
    assert status == 0
    lines = out.splitlines()
    assert [line.partition("  (")[0] for line in lines] == [b.name for b in BEHAVIOURS]
    assert "output in evaluation  (evaluation)" in lines
    assert max(len(behaviour.name) for behaviour in BEHAVIOURS) <= WIDTH
    assert command("--list", "--only", "float16")[1].count("\n") >= 3


def test_names_of_behaviours_can_be_typed():
    assert all(behaviour.name.isascii() for behaviour in BEHAVIOURS)
    assert len({behaviour.name for behaviour in BEHAVIOURS}) == len(BEHAVIOURS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere:BatchNorm"], "cannot import 'nowhere:BatchNorm'"),
        (["npbn:BatchNorm9d"], "cannot import"),
        (["npbn"], "package.module:object"),
        (["npbn:__version__"], "expected a class or a function"),
        (["npbn:Linear"], "npbn:Linear is no BatchNorm"),
        (["npbn:BatchNorm1d", "--only", "flying"], "no behaviour contains 'flying'"),
        (["npbn:BatchNorm1d", "--examples", "0"], "at least 1"),
        (["npbn:BatchNorm1d", "--seconds", "-1"], "seconds above 0 and up to 1e6, got -1"),
        (["npbn:BatchNorm1d", "--limit", "nan"], "seconds above 0 and up to 1e6, got nan"),
        (["npbn:BatchNorm1d", "--limit", "soon"], "invalid _seconds value: 'soon'"),
        (["replay", "nowhere", "npbn:BatchNorm1d", "--seconds", "0"], "above 0"),
        (["npbn:BatchNorm1d", "--convention", "caffe"], "invalid choice: 'caffe'"),
        (["--command", "no-such-program-anywhere"], "no-such-program-anywhere"),
        (["--command", "true", "npbn:BatchNorm1d"], "either TARGET or --command"),
        ([], "either TARGET or --command"),
        (["replay", "nowhere", "npbn:BatchNorm1d"], "nowhere"),
    ],
)
def test_bad_arguments_give_one_error_and_status_2(command, arguments, words):
    status, _, err = command(*arguments)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("part", [[], ["--json"]])
def test_what_cannot_be_made_has_status_2(command, monkeypatch, part):
    monkeypatch.syspath_prepend(TARGETS)
    status, out, _ = command("misbehaving_targets:CannotBeMade", *part)
    assert status == 2
    assert out.count("no device") == 1
    if part:
        assert json.loads(out)["correct"] is False


def test_a_convention_of_the_command_line(command, monkeypatch):
    target = "npbn.testing.mutants.running:MomentumReversed"
    only = ["--examples", "10", "--only", "running statistics"]
    status, out, _ = command(target, *only)
    assert status == 1
    assert "takes momentum for the weight of the old value" in out
    assert "tensorflow_fused does: --convention tensorflow_fused" in out
    assert command(target, *only, "--convention", "tensorflow_fused")[0] == 0


def test_export_and_replay(command, tmp_path, monkeypatch):
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
    monkeypatch.syspath_prepend(TARGETS)
    for name in ("CannotBeMade", "DoesNothing"):
        status, out, _ = command("replay", tmp_path / "cases", f"misbehaving_targets:{name}")
        assert (status, "not checked" in out) == (2, True), out


# -- a process of its own -----------------------------------------------------------------------


def program(*arguments, before="", **options):
    """Run the command in an interpreter of its own, after a line of Python."""
    code = f"import sys; sys.path.append({TARGETS!r})\n{before}\n"
    code += "from npbn.testing.__main__ import main; sys.exit(main(sys.argv[1:]))"
    return run_python("-c", code, *arguments, **options)


@pytest.mark.process
def test_a_target_that_prints_does_not_spoil_json():
    done = program("misbehaving_targets:Prints", *QUICK, "--json")
    assert json.loads(done.out)["checked"] == 2
    assert "from C" in done.err


@pytest.mark.process
def test_an_old_code_page_loses_no_report():
    arguments = ["misbehaving_targets:SaysOddThings", *QUICK]
    done = program(*arguments, code=1, env={"PYTHONIOENCODING": "cp1252"})
    assert r"\u0177 \u2192 x\u0302" in done.out
    assert "correct up to rounding:     NO" in done.out


@pytest.mark.process
def test_without_hypothesis_the_suite_says_in_a_line_what_to_install_and_the_rest_works(tmp_path):
    blocked = "sys.modules.update(hypothesis=None, tqdm=None)"
    done = program("npbn:BatchNorm1d", before=blocked, code=2)
    assert done.err.count("\n") == 1
    assert "needs hypothesis: pip install 'npbn[testing]'" in done.err
    program("export", tmp_path, before=blocked)
    assert "failed" not in program("replay", tmp_path, "npbn:BatchNorm1d", before=blocked).out
    code = f"import sys; {blocked}\nimport npbn.testing.conventions, npbn.testing.mutants\n"
    code += "import npbn.testing.textbook\nfrom npbn.testing import check_gradients"
    assert run_python("-c", code).err == ""


@needs_signals
@pytest.mark.process
def test_ctrl_c_shows_what_was_found_in_one_line_and_status_130():
    command = [sys.executable, "-m", "npbn.testing", "npbn:BatchNorm1d"]
    with started(*command) as process:
        process.line("output in evaluation")
        process.send(signal.SIGINT)
        done = process.wait(130)
    assert "behaviours checked" in done.out
    assert "correct up to rounding:     not checked" in done.out
    assert done.err.count("\n") == 1
    assert "interrupted after" in done.err


@needs_signals
@pytest.mark.process
def test_ctrl_c_leaves_valid_json():
    command = [sys.executable, "-m", "npbn.testing", "npbn:BatchNorm1d", "--json", "--only", "in"]
    with started(*command) as process:
        process.until(lambda: _has_children(process))
        process.send(signal.SIGINT)
        done = process.wait(130)
    assert json.loads(done.out)["status"] == 2


def _has_children(process):
    from pathlib import Path

    tasks = Path(f"/proc/{process._popen.pid}/task").glob("*/children")
    return any(path.read_text().split() for path in tasks)


@needs_signals
@pytest.mark.process
def test_a_reader_that_leaves_is_no_error():
    python = f"{sys.executable} -m npbn.testing npbn:BatchNorm1d --examples 1 --only 'a'"
    done = run_process("bash", "-c", f"{python} | head -n 1; exit ${{PIPESTATUS[0]}}", code=141)
    assert done.out.startswith("BatchNorm1d")
    assert done.err == ""
