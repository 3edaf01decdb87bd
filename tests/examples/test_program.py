"""How programs end before their work is done: one line, a status, and no traceback."""

import argparse
import os
import signal
import sys
from pathlib import Path

import numpy as np
import options
import pytest
from processes import needs_signals, run_process, run_python, started
from program import run_program

from npbn.data import write_idx
from npbn.errors import DataError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RESUME = "the same command with --resume goes on from here"
slow = pytest.mark.slow
# Of each program: its command, a line after which it works for long, and what it says when it is
# interrupted.
LONG = {
    "mnist_compare": (
        [EXAMPLES / "mnist_compare.py", "--epochs", "99", "--no-torch"],
        r"^ +2 ",
        RESUME,
    ),
    "mnist_mpi": ([EXAMPLES / "mnist_mpi.py", "--epochs", "99"], r"^ +1 ", RESUME),
    "deploy": ([EXAMPLES / "deploy.py"], "^training", "the same command starts anew"),
    "lab": (
        ["-m", "examples.lab", "--full"],
        "full scale",
        "the same command goes on from here",
    ),
    "benchmarks": (
        ["-m", "benchmarks", "batch_norm"],
        "^batch_norm: ",
        "{out} has the results of the programs that were done",
    ),
}


def run(work, expected=()):
    return run_program("name", work, "pip install x", "start anew", expected)


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
        (DataError("it is empty"), 2, "name: error: it is empty\n"),
        (FileExistsError("there"), 2, "name: error: there\n"),
        (LookupError("expected"), 2, "name: error: expected\n"),
    ],
)
def test_what_can_be_foreseen_is_one_line_and_a_status(capsys, monkeypatch, error, status, line):
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # pytest's own standard output
    assert run(raising(error), expected=(LookupError,)) == status
    assert tuple(capsys.readouterr()) == ("", line)


def test_what_cannot_is_raised():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)
    assert run(lambda: 1) == 1


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_folders_of_runs_are_different(network, dtype, engine):
    mine = argparse.Namespace(network=network, dtype=dtype, engine=engine, data=options.EMBEDDED)
    found = {options.folder("program", mine), options.folder("program", mine, "npbn-alone")}
    for change in ({"network": "x"}, {"dtype": "x"}, {"engine": "x"}, {"data": Path("y")}):
        found.add(options.folder("program", argparse.Namespace(**{**vars(mine), **change})))
    assert len(found) == 6
    assert all(folder.parent == Path("runs/program") for folder in found)


# -- processes ----------------------------------------------------------------------------------


@pytest.mark.process
@needs_signals
@pytest.mark.parametrize("program", LONG)
def test_interrupted_it_says_so_in_one_line(program, tmp_path):
    arguments, line, after = LONG[program]
    if program == "mnist_mpi":
        pytest.importorskip("mpi4py")
    out = tmp_path / "out"
    with started(sys.executable, *arguments, "--out", out) as process:
        process.line(line)
        process.send(signal.SIGINT)
        result = process.wait(code=130)
    assert result.err == f"{program}: interrupted; {after.format(out=out)}\n"


@pytest.mark.process
@needs_signals
def test_interrupted_ranks_say_so_once_and_end(tmp_path):
    pytest.importorskip("mpi4py")
    mpiexec = Path(sys.executable).parent / "mpiexec"
    if not mpiexec.exists():
        pytest.skip("no mpiexec beside python")
    command = [mpiexec, "-n", "2", sys.executable, EXAMPLES / "mnist_mpi.py", "--epochs", "99"]
    with started(*command, "--out", tmp_path) as process:
        process.line(r"^ +1 ")
        process.send(signal.SIGINT)  # mpiexec hands it to the ranks, and says that it does
        result = process.wait(code=130)
    said = [line for line in result.err.splitlines() if not line.startswith("[mpiexec@")]
    assert said == [f"mnist_mpi: interrupted; {RESUME}"]


@pytest.mark.process
@needs_signals
def test_interrupted_it_goes_on_as_it_says(tmp_path):
    rng, data = np.random.default_rng(0), tmp_path / "data"
    data.mkdir()
    for half in ("train", "t10k"):
        images = rng.integers(0, 256, (16, 2, 3), dtype=np.uint8)
        write_idx(data / f"{half}-images-idx3-ubyte", images)
        write_idx(data / f"{half}-labels-idx1-ubyte", rng.integers(0, 10, 16, dtype=np.uint8))
    words = [EXAMPLES / "mnist_compare.py", "--data", data, "--out", tmp_path, "--no-torch"]
    words += ["--batch-size", "8", "--epochs", "2000"]
    with started(sys.executable, *words) as process:
        process.line(r"^ +2 ")
        process.send(signal.SIGINT)
        process.wait(code=130)
    assert (tmp_path / "checkpoint.npz").exists()
    with started(sys.executable, *words, "--resume") as process:
        assert int(process.line(r"^resumed after epoch (\d+)")[1]) >= 2


@pytest.mark.process
@needs_signals
@pytest.mark.parametrize("program", ["mnist_compare", "benchmarks"])
def test_a_reader_that_has_enough_ends_it_without_a_word(program, tmp_path):
    arguments, *_ = LONG[program]
    if program == "benchmarks":
        arguments = [*arguments, "--quick"]
    command = " ".join(map(str, [sys.executable, *arguments, "--out", tmp_path]))
    # `head` has read a line and ended, when the next one is printed.
    result = run_process("bash", "-c", f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}", code=141)
    assert result.out.count("\n") == 1
    assert result.err == ""


@pytest.mark.process
@pytest.mark.parametrize("program", ["mnist_compare.py", "mnist_mpi.py", "deploy.py"])
def test_an_out_that_is_a_file_is_one_line(program, tmp_path):
    if program == "mnist_mpi.py":
        pytest.importorskip("mpi4py")
    file = tmp_path / "file"
    file.write_text("mine")
    result = run_python(EXAMPLES / program, "--out", file, code=2)
    assert result.err.count("\n") == 1
    assert str(file) in result.err
    assert file.read_text() == "mine"


@pytest.mark.process
@slow
def test_without_docstrings_it_does_its_work(tmp_path):
    """Python leaves them out with -OO, and with PYTHONOPTIMIZE=2."""
    words = ["-m", "examples.lab", "placement", "--quick", "--out", tmp_path]
    run_python(*words, env={"PYTHONOPTIMIZE": "2"})
    assert {path.suffix for path in tmp_path.iterdir()} >= {".json", ".html"}


@pytest.mark.process
@pytest.mark.parametrize("words", [[EXAMPLES / "deploy.py"], ["-m", "examples.lab"]])
def test_without_docstrings_it_explains_itself(words):
    result = run_python(*words, "--help", env={"PYTHONOPTIMIZE": "2"})
    assert "usage:" in result.out
