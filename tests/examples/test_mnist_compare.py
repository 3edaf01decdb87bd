"""The example as its users run it: the command line, its files, and its errors."""

import json
import math
import os
import struct
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import mnist_compare
import mnist_report
import numpy as np
import pytest
from processes import run_python, started

from npbn import models, torch_reference
from npbn.data import write_idx

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "mnist_compare.py"
QUICK = ["--epochs", "1", "--hidden-dim", "16"]
TESTS = {"batchnorm_train_mode", "batchnorm_eval_mode", "plain_eval_mode"}


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def main(capsys):
    """Run the program in this process: quick, where no fresh interpreter is needed."""

    def run_main(*arguments):
        try:
            status = mnist_compare.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = stop.code
        return Result(status, *capsys.readouterr())

    return run_main


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw none: they take most of the time of a short run."""
    for name in ("_plot_losses", "_plot_differences"):
        monkeypatch.setattr(mnist_report, name, lambda *_: None)


def write_data(folder, height, width):
    """Write 24 training and 10 test images, drawn ones, in MNIST's format."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for half, count in (("train", 24), ("t10k", 10)):
        images = rng.integers(0, 256, (count, height, width), dtype=np.uint8)
        write_idx(folder / f"{half}-images-idx3-ubyte", images)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{half}-labels-idx1-ubyte", labels)
    return folder


def few_images(folder):
    """Return the arguments for three batches of images of 6 x 9 pixels."""
    return ["--data", str(write_data(folder, 6, 9)), "--batch-size", "8"]


@pytest.fixture
def small(tmp_path):
    """Arguments for three steps."""
    return [*QUICK, *few_images(tmp_path / "data")]


def run(*arguments, before=""):
    """Run the script in an interpreter of its own, after the statements of `before`."""
    program = (
        f"{before}\nimport runpy, sys\nsys.argv[0] = {str(SCRIPT)!r}\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    return Result(*run_python("-c", program, *arguments, code=None))


def assert_one_line_error(result, *words):
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert all(word in last for word in words), last


@pytest.fixture(scope="module", params=[pytest.param("mlp", marks=pytest.mark.process), "cnn"])
def network(request):
    return request.param


@pytest.fixture(scope="module")
def compared(network, tmp_path_factory):
    """Run the default as a user does, and the CNN in this process on few images."""
    out = tmp_path_factory.mktemp("compared")
    arguments = [*QUICK, "--dtype", "float64", "--out", str(out)]
    if network == "mlp":
        return run(*arguments), out
    arguments += ["--network", "cnn", *few_images(out / "data")]
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        status = mnist_compare.main(arguments)
    return Result(status, stdout.getvalue(), stderr.getvalue()), out


def test_it_succeeds_and_shows_both_libraries(compared, network):
    result, _ = compared
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(network.upper())
    for expected in ("with BatchNorm", "without BatchNorm", "samples/s", "running stats"):
        assert expected in result.stdout
    assert result.stderr == "", "no progress bar where the output is no terminal"


def test_results_hold_every_key_and_float64_agrees(compared, network):
    _, out = compared
    found = json.loads((out / "results.json").read_text())
    assert found.keys() == {
        "network",
        "dataset",
        "dtype",
        "engine",
        "engine_gain",
        "epochs",
        "max_abs_diff",
        "test_accuracy",
        "seconds",
        "losses",
    }
    assert (found["network"], found["dtype"], found["epochs"]) == (network, "float64", 1)
    assert found["max_abs_diff"].keys() == {"logits", "gradients", "parameters", "running_stats"}
    assert 0 < max(found["max_abs_diff"].values()) < 1e-9
    for library in ("npbn", "torch"):
        assert found["test_accuracy"][library].keys() == TESTS
        assert found["seconds"][library] > 0
    assert found["test_accuracy"]["npbn"] == found["test_accuracy"]["torch"]
    for kind in ("batchnorm", "plain"):
        losses = [found["losses"][library][kind] for library in ("npbn", "torch")]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


def test_the_pictures_are_written(compared):
    _, out = compared
    for name in ("losses.png", "agreement.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_the_networks_are_those_that_were_asked_for(main, monkeypatch, small, tmp_path, kind):
    trained = []
    monkeypatch.setattr(mnist_report, "save", lambda _, runs, __: trained.extend(runs))
    result = main("--network", kind.lower(), *small, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    inputs = {"MLP": 6 * 9, "CNN": 32 * 1 * 2}[kind]
    for run, use_batch_norm in zip(trained, (True, False), strict=True):
        assert isinstance(run.net, getattr(models, kind))
        assert isinstance(run.model, getattr(torch_reference, kind))
        for side in (run.net, run.model):
            assert tuple(side.fc1.weight.shape) == (16, inputs)
            assert hasattr(side, "batch_norm1") == use_batch_norm
        assert kind == "MLP" or run.net.image_size == (6, 9)


@pytest.mark.slow
@pytest.mark.process
def test_without_torch_npbn_trains_alone_and_says_so(tmp_path):
    before = "import sys, importlib.util as u\nfind = u.find_spec\n"
    before += "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
    before += "sys.modules['torch'] = None  # importing it is an error"
    result = run(*QUICK, "--out", tmp_path, before=before)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("PyTorch is not installed") == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["test_accuracy"]["torch"] == dict.fromkeys(TESTS)
    assert found["seconds"]["torch"] is None
    assert found["max_abs_diff"]["logits"] is None
    assert not (tmp_path / "agreement.png").exists()


def test_the_cnn_without_torch_gives_the_same_files(main, small, tmp_path):
    out = tmp_path / "out"
    result = main("--network", "cnn", *small, "--no-torch", "--out", out)
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "results.json").read_text())
    assert found["network"] == "cnn"
    assert all(0 <= found["test_accuracy"]["npbn"][test] <= 1 for test in TESTS)
    assert found["test_accuracy"]["torch"] == dict.fromkeys(TESTS)
    assert sorted(path.name for path in out.iterdir()) == ["losses.png", "results.json"]


@pytest.mark.parametrize(("kind", "difference"), [("mlp", 1e-8), ("mlp", math.nan), ("cnn", 1e-8)])
@pytest.mark.slow
def test_a_difference_beyond_the_limit_fails_in_float64(
    main, monkeypatch, small, tmp_path, kind, difference
):
    found = dict.fromkeys(["gradients", "parameters", "running_stats"], difference)
    monkeypatch.setattr(torch_reference, "max_abs_diff", lambda *_: found)
    result = main("--network", kind, *small, "--dtype", "float64", "--out", tmp_path)
    assert result.returncode == 1
    assert "NOT below" in result.stdout


def test_a_batch_of_one_image_is_enough_for_the_cnn(main, no_pictures, small, tmp_path):
    """BatchNorm has its pixels to normalise; the MLP, which has one value, refuses it below."""
    one = ["--batch-size", "1", "--no-torch", "--out", tmp_path]
    assert main("--network", "cnn", *small, *one).returncode == 0
    assert_one_line_error(main("--network", "mlp", *small, *one), "batch", "one", "BatchNorm")


@pytest.mark.slow
def test_every_kind_of_run_has_a_folder_of_its_own(main, monkeypatch, small, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--network", "cnn"], ["--no-torch"], ["--no-torch", "--dtype", "float64"]):
        result = main(*small, *words)
        assert result.returncode == 0, result.stderr
    folders = {"mlp-float32", "cnn-float32", "mlp-float32-npbn-alone", "mlp-float64-npbn-alone"}
    out = tmp_path / "runs" / "mnist_compare"
    assert {path.name for path in out.iterdir()} == {f"{name}-data" for name in folders}
    written = {"losses.png", "results.json"}
    for folder in out.iterdir():
        more = set() if "alone" in folder.name else {"agreement.png"}
        assert {path.name for path in folder.iterdir()} == written | more


@pytest.mark.slow
def test_a_picture_of_an_earlier_run_does_not_stay(main, small, tmp_path):
    out = tmp_path / "out"
    assert main(*small, "--out", out).returncode == 0
    assert (out / "agreement.png").exists()
    assert main(*small, "--out", out, "--no-torch").returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["losses.png", "results.json"]


@pytest.mark.process
def test_the_first_line_does_not_wait_for_what_takes_long():
    slow = "import sys; sys.modules['numpy'] = None  # importing it is an error"
    result = run("--no-torch", before=slow)
    assert result.returncode == 2
    assert result.stdout == (
        "MLP in npbn, float32, 1 thread(s), batches of 64, learning rate 0.01\n"
    )
    assert result.stderr.startswith("mnist_compare needs numpy: ")


def test_a_run_that_diverges_gives_valid_json(main, no_pictures, small, tmp_path):
    result = main(*small, "--no-torch", "--lr", "1e30", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["losses"]["npbn"]["plain"] == [None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], ["nowhere", "train-images-idx3-ubyte"]),
        (["--batch-size", "1"], ["batch", "one", "BatchNorm"]),
        (["--batch-size", "3999"], ["batch", "one", "BatchNorm"]),
        (["--out", ROOT / "LICENSE"], ["LICENSE"]),
        (["--out", ROOT / "LICENSE" / "x"], ["LICENSE"]),
        (["--epochs", "0"], ["--epochs", "above 0"]),
        (["--hidden-dim", "9" * 20], ["--hidden-dim", "below 2147483648"]),
        (["--seed", "-1"], ["--seed", "0 or more", "-1"]),
        (["--seed", "one"], ["--seed", "one"]),
        (["--lr", "nan"], ["--lr", "above 0"]),
        (["--dtype", "int8"], ["--dtype"]),
        (["--network", "rnn"], ["--network", "mlp", "cnn"]),
        (["--download"], ["--data"]),
    ],
)
def test_bad_arguments_give_one_line(main, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(main("--no-torch", *arguments), *words)


@pytest.mark.parametrize("size", [(3, 8), (8, 3)])
def test_images_too_small_to_halve_twice_give_one_line(main, no_pictures, tmp_path, size):
    data = write_data(tmp_path / "data", *size)
    arguments = ["--no-torch", "--data", data, "--batch-size", "8", "--out", tmp_path / "out"]
    words = ["--network cnn", str(data), f"{size[0]} x {size[1]}"]
    assert_one_line_error(main("--network", "cnn", *arguments), *words)
    assert main("--network", "mlp", *arguments, *QUICK).returncode == 0


def test_a_truncated_data_file_gives_one_line(main, tmp_path):
    for half in ("train", "t10k"):
        write_idx(tmp_path / f"{half}-images-idx3-ubyte", np.zeros((4, 2, 2), np.uint8))
        write_idx(tmp_path / f"{half}-labels-idx1-ubyte", np.zeros(4, np.uint8))
    broken = tmp_path / "train-images-idx3-ubyte"
    os.truncate(broken, broken.stat().st_size - 1)
    result = main("--no-torch", "--data", tmp_path, "--out", tmp_path / "out")
    assert_one_line_error(result, str(broken))


@pytest.mark.process
def test_a_missing_package_gives_one_line_that_says_what_to_install():
    result = run(before="import sys; sys.modules['tqdm'] = None")
    assert_one_line_error(result, "mnist_compare needs tqdm: pip install")


def read_all(terminal):
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal so
            return
        if not part:
            return
        yield part


@pytest.mark.slow
@pytest.mark.process
def test_progress_appears_on_a_terminal(tmp_path):
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, SCRIPT, *QUICK, "--no-torch", "--out", tmp_path]
    with started(*command, stdout=slave, stderr=slave) as process:
        os.close(slave)
        shown = b"".join(read_all(master))
        process.wait(code=0)
    os.close(master)
    assert b"step/s" in shown


def test_per_epoch_numbers_are_numbers(compared):
    result, _ = compared
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()[:2] == "1 "]
    assert len(rows) == 2
    for row in rows:
        assert all(math.isfinite(float(cell)) for cell in row if cell != "-")
