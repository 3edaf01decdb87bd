"""A run of mnist_compare that is killed and resumed ends as one that never was, bit for bit."""

import functools
import json
import os
import random
import signal
import threading
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import mnist_compare
import mnist_report
import mnist_resume
import mnist_training
import numpy as np
import pytest
import torch
from processes import needs_signals, run_python
from tqdm import tqdm

import npbn
from npbn.checkpoint import load, save
from npbn.data import write_idx
from npbn.optim import SGD

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "mnist_compare.py"
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write 18 training and 10 test images, drawn ones, in MNIST's format."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for half, count in (("train", 18), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        write_idx(folder / f"{half}-images-idx3-ubyte", images)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{half}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("_plot_losses", "_plot_differences"):
        monkeypatch.setattr(mnist_report, name, lambda *_: None)


def arguments(data, out, *more):
    few = ["--data", data, "--batch-size", "8", "--epochs", "3", "--hidden-dim", "6"]
    return [str(word) for word in [*few, "--lr", "0.1", "--out", out, *more]]


def main(*words):
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        status = mnist_compare.main(list(words))
    return status, stdout.getvalue(), stderr.getvalue()


def bits(state):
    """Return a state without its times, so that == compares every bit."""
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items() if key != "seconds"}
    if isinstance(state, np.ndarray):
        return state.dtype.str, state.shape, state.tobytes()
    return [bits(value) for value in state] if isinstance(state, list | tuple) else state


def set_momentum(monkeypatch, momentum):
    """Do what the program has no option for; the state holds its buffers all the same."""
    for library in (npbn, torch.optim):
        monkeypatch.setattr(library, "SGD", functools.partial(library.SGD, momentum=momentum))


def outcome(out):
    return bits(json.loads((out / "results.json").read_text())), bits(load(out / "run.npz"))


def counted(function, strike):
    def count(*arguments):
        strike()
        return function(*arguments)

    return count


def killed_at(event, words):
    """Run the program in a copy of this process, which kills itself; return whether it did.

    An event is a step of npbn's optimizer or of a save. There may be fewer of them.
    """
    child = os.fork()
    if not child:
        # tqdm's own is shared by all processes: whoever dies with it in hand hangs the others.
        tqdm.set_lock(threading.RLock())
        events = iter(range(1, event))

        def strike():
            if next(events, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        SGD.step = counted(SGD.step, strike)
        for name in ("fsync", "replace"):
            setattr(os, name, counted(getattr(os, name), strike))
        status = 1
        try:
            status = main(*words)[0]
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.process
@needs_signals
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
@pytest.mark.parametrize(
    ("network", "momentum"),
    [
        ("mlp", 0.9),
        ("cnn", 0.0),
        pytest.param("mlp", 0.0, marks=slow),
        pytest.param("cnn", 0.9, marks=slow),
    ],
)
def test_killed_at_random_moments(no_pictures, monkeypatch, data, tmp_path, network, momentum):
    """Two networks take three epochs of three steps, and a save has three events."""
    set_momentum(monkeypatch, momentum)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = arguments(data, whole, "--network", network, "--checkpoint", whole / "run.npz")
    assert main(*words)[0] == 0

    words = arguments(data, parts, "--network", network, "--checkpoint", parts / "run.npz")
    rng, lives = random.Random(f"{network}{momentum}"), 1
    while killed_at(rng.randint(1, 16), [*words, "--resume"]):
        lives += 1
    assert lives > 3
    assert outcome(parts) == outcome(whole)
    net = load(parts / "run.npz")["without BatchNorm"]["net"]
    assert all(np.isfinite(array).all() for array in net.values())


class Killed(BaseException):
    """Stands for kill -9 in this process: nothing on the way up catches it."""


@pytest.mark.parametrize(
    ("network", "suffix"),
    [
        ("mlp", "npz"),
        ("cnn", "safetensors"),
        pytest.param("mlp", "safetensors", marks=slow),
        pytest.param("cnn", "npz", marks=slow),
    ],
)
def test_stopped_after_every_epoch(no_pictures, monkeypatch, data, tmp_path, network, suffix):
    set_momentum(monkeypatch, 0.9)
    words = ["--network", network, "--epochs", "2", "--checkpoint"]
    if suffix == "npz":
        words = ["--dtype", "float64", *words]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(*arguments(data, whole, *words, whole / f"run.{suffix}"))[0] == 0
    method, shown = mnist_resume.Progress.save, []

    def save_and_stop(self, run, epoch):
        method(self, run, epoch)
        raise Killed

    words = arguments(data, parts, *words, parts / f"run.{suffix}", "--resume")
    with monkeypatch.context() as stopping:
        stopping.setattr(mnist_resume.Progress, "save", save_and_stop)
        for _ in range(2 * 2):
            with pytest.raises(Killed):
                main(*words)
    status, shown, _ = main(*words)
    assert status == 0
    assert shown.count("resumed after epoch 2") == 2
    for out in (whole, parts):
        save(load(out / f"run.{suffix}"), out / "run.npz")
    assert outcome(parts) == outcome(whole)


def test_the_checkpoint_is_left_only_where_it_was_asked_for(no_pictures, data, tmp_path):
    words = arguments(data, tmp_path / "out", "--no-torch")
    assert main(*words)[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    status, shown, _ = main(*words, "--resume")
    assert status == 0
    assert "no " + str(tmp_path / "out" / "checkpoint.npz") in shown
    assert "resumed" not in shown
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_a_run_killed_without_forethought_can_be_resumed(no_pictures, monkeypatch, data, tmp_path):
    words, method = arguments(data, tmp_path, "--no-torch"), mnist_resume.Progress.save

    def save_and_stop(self, run, epoch):
        method(self, run, epoch)
        if epoch == 2:
            raise Killed

    with monkeypatch.context() as stopping:
        stopping.setattr(mnist_resume.Progress, "save", save_and_stop)
        with pytest.raises(Killed):
            main(*words)
    assert "resumed after epoch 2" in main(*words, "--resume")[1]
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lr", "0.2"], ["--lr was 0.1, is 0.2"]),
        (["--epochs", "5"], ["--epochs was 3, is 5"]),
        (["--seed", "1"], ["--seed was 0, is 1"]),
        (["--dtype", "float64"], ["--dtype was float32, is float64"]),
        (["--batch-size", "5", "--network", "cnn"], ["--batch-size", "--network"]),
        (["--threads", "2"], ["--threads"]),
        (["--hidden-dim", "8"], ["--hidden-dim"]),
        (["--data"], ["--data was images"]),
    ],
)
def test_other_options_are_refused(no_pictures, data, tmp_path, finished, more, words):
    if more == ["--data"]:
        for path in data.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        labels = tmp_path / "train-labels-idx1-ubyte"
        labels.write_bytes(labels.read_bytes()[:-1] + b"\x0b")
        more = ["--data", str(tmp_path)]
    before = finished.read_bytes()
    again = ["--no-torch", "--checkpoint", str(finished), "--resume", *more]
    status, _, error = main(*arguments(data, tmp_path / "out", *again))
    assert status == 2
    assert all(word in error for word in [str(finished), *words])
    assert error.count("\n") == 1
    assert error.count(" was ") == len(words)
    assert finished.read_bytes() == before


def test_torch_that_comes_or_goes_is_refused(no_pictures, data, tmp_path, finished):
    words = arguments(data, tmp_path, "--checkpoint", finished, "--resume")
    status, _, error = main(*words)
    assert (status, "--no-torch was True, is False" in error) == (2, True)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The checkpoint of a run without torch."""
    out = tmp_path_factory.mktemp("finished")
    assert main(*arguments(data, out, "--no-torch", "--checkpoint", out / "run.npz"))[0] == 0
    return out / "run.npz"


def test_a_finished_run_is_evaluated_again(no_pictures, data, finished):
    before = outcome(finished.parent)
    (finished.parent / "results.json").unlink()
    words = ["--no-torch", "--checkpoint", finished, "--resume"]
    assert main(*arguments(data, finished.parent, *words))[0] == 0
    assert outcome(finished.parent) == before


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("name", ["run.pkl", "missing/run.npz", "folder.npz"])
def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(
    monkeypatch, data, tmp_path, name, resume
):
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr(mnist_training, "train", None)
    words = ["--no-torch", "--checkpoint", tmp_path / name, *resume]
    status, _, error = main(*arguments(data, tmp_path, *words))
    assert status == 2
    assert str(tmp_path / name) in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_checkpoint_of_a_run_is_refused(data, tmp_path):
    save({"a": np.zeros(1)}, tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4")
    for name in ("other.npz", "broken.npz"):
        words = ["--no-torch", "--checkpoint", tmp_path / name, "--resume"]
        status, _, error = main(*arguments(data, tmp_path, *words))
        assert status == 2
        assert str(tmp_path / name) in error
        assert error.count("\n") == 1


KILLED_AT_A_SAVE = """
import os, runpy, signal, sys
left, replace = int(sys.argv.pop(1)), os.replace

def counted(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)

os.replace = counted
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@slow
@pytest.mark.process
@needs_signals
def test_the_script_itself_killed_at_some_of_its_saves(data, tmp_path):
    """The first save of each life is before training; the networks have three epochs each."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = arguments(data, whole, "--no-torch", "--checkpoint", whole / "run.npz")
    assert main(*words)[0] == 0
    words = arguments(data, parts, "--no-torch", "--checkpoint", parts / "run.npz", "--resume")
    for fatal in (4, 3):
        run_python("-c", KILLED_AT_A_SAVE, fatal, SCRIPT, *words, code=-signal.SIGKILL)
    assert "resumed after epoch 3" in run_python(SCRIPT, *words).out
    assert outcome(parts) == outcome(whole)
