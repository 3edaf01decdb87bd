"""A run of mnist_compare that is killed and resumed ends as one that never was, bit for bit."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import mnist_compare
import mnist_resume
import numpy as np
import pytest
import torch
from hypothesis import settings
from tqdm import tqdm

import npbn
from npbn.checkpoint import load, save
from npbn.data import write_idx

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "mnist_compare.py"
THOROUGH = settings.default.max_examples >= 100
posix = pytest.mark.skipif(os.name != "posix", reason="no fork, no kill -9")


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Have torch import now what it puts off, so that the runs take as long as each other."""
    torch.optim.SGD([torch.zeros(1)])


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
        monkeypatch.setattr(mnist_compare.mnist_report, name, lambda *_: None)


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


def killed_after(seconds, words):
    """Run the program in a copy of this process, kill -9 it then; return whether it was done."""
    child = os.fork()
    if not child:
        # tqdm's own is shared by all processes: whoever dies with it in hand hangs the others.
        tqdm.set_lock(threading.RLock())
        status = 1
        try:
            status = main(*words)[0]
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


@posix
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
@pytest.mark.parametrize(
    ("network", "momentum"),
    [("mlp", 0.9), ("cnn", 0.0), *([("mlp", 0.0), ("cnn", 0.9)] if THOROUGH else [])],
)
def test_killed_at_random_moments(no_pictures, monkeypatch, data, tmp_path, network, momentum):
    set_momentum(monkeypatch, momentum)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = arguments(data, whole, "--network", network, "--checkpoint", whole / "run.npz")
    start = time.monotonic()
    assert killed_after(60, words) is True
    duration = time.monotonic() - start

    words = arguments(data, parts, "--network", network, "--checkpoint", parts / "run.npz")
    rng = random.Random(f"{network}{momentum}")
    for attempt in range(200):
        # ever longer, so that it comes to an end on a busy machine too
        patience = duration * rng.uniform(0.2, 0.4 + attempt / (20 if THOROUGH else 3))
        if killed_after(patience, [*words, "--resume"]):
            break
    else:
        pytest.fail("it never came to an end")
    assert attempt, "it was never killed"
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
        *([("mlp", "safetensors"), ("cnn", "npz")] if THOROUGH else []),
    ],
)
def test_stopped_after_every_epoch(no_pictures, monkeypatch, data, tmp_path, network, suffix):
    set_momentum(monkeypatch, 0.9)
    words = ["--network", network, "--checkpoint"]
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
        for _ in range(2 * 3):
            with pytest.raises(Killed):
                main(*words)
    status, shown, _ = main(*words)
    assert status == 0
    assert shown.count("resumed after epoch 3") == 2
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
    monkeypatch.setattr(mnist_compare, "train", None)
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


@posix
@pytest.mark.skipif(not THOROUGH, reason="an interpreter for each of its lives")
def test_the_script_itself_killed_at_random_moments(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command, start = [sys.executable, str(SCRIPT)], time.monotonic()
    words = arguments(data, whole, "--checkpoint", whole / "run.npz")
    subprocess.run([*command, *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - start
    words, rng = arguments(data, parts, "--checkpoint", parts / "run.npz"), random.Random(0)
    for attempt in range(50):
        patience = duration * rng.uniform(0.2, 0.8 + attempt / 20)
        process = subprocess.Popen(
            [*command, *words, "--resume"], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        try:
            assert process.wait(patience) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert outcome(parts) == outcome(whole)
