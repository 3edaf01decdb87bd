"""The command line and files that are wrong, hostile, or of a training program.

Wrong files gave a traceback, small ones cost minutes or gigabytes, and control characters of keys
reached the terminal.
"""

import argparse
import contextlib
import io
import json
import shlex
import tracemalloc

import numpy as np
import pytest
import torch
from cli.test_cli import refused, run
from hypothesis import given
from hypothesis import strategies as st
from processes import run_python

import npbn
from npbn.cli import main


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the file of a network, net.npz, and three images, images.npy."""
    npbn.save(npbn.MLP(12, 5, 4, rng=np.random.default_rng(1)).eval(), tmp_path / "net.npz")
    np.save(tmp_path / "images.npy", np.ones((3, 3, 4), np.float32))
    return tmp_path


# -- networks -------------------------------------------------------------------------------------


def with_config(path, config, state=None):
    npbn.save({"a": np.zeros(1)} if state is None else state, path, metadata={"config": config})


CONFIGS = {
    "no mapping": 3,
    "null": [],
    "no type": {"layers": {}},
    "of another type": {"type": "os.system"},
    "of a long type": {"type": "x\x1b[31m" * 10**5},
    "of a type that is a list": {"type": ["Linear"]},
    "large": {"type": "Linear", "in_features": 14000, "out_features": 14000},
    "huge": {"type": "Linear", "in_features": 10**9, "out_features": 10**9},
    "beyond 64 bits": {"type": "Linear", "in_features": 10**30, "out_features": 1},
    "negative": {"type": "Linear", "in_features": -1, "out_features": 1},
    "of floats": {"type": "Linear", "in_features": 2.0, "out_features": 1},
    "with more": {"type": "Linear", "in_features": 1, "out_features": 1, "x" * 10**5: 1},
    "without": {"type": "Linear"},
    "conv": {"type": "Conv2d", "in_channels": 9999, "out_channels": 9999, "kernel_size": 99},
    "conv of groups": {"type": "Conv2d", "in_channels": 2, "out_channels": 2, "kernel_size": 1,
                       "groups": 0},
    "norm": {"type": "BatchNorm1d", "num_features": 10**9},
    "norm of a dtype": {"type": "BatchNorm1d", "num_features": 1, "dtype": "O"},
    "a name": {"type": "Sequential", "layers": {"a.b": {"type": "ReLU"}}},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_description_that_fits_no_network_costs_nothing(name, folder, capsys):
    """Linear(14000, 14000) in a file of 461 bytes took 2.3 GB, to find that keys are missing."""
    with_config(folder / "x.npz", CONFIGS[name])
    tracemalloc.start()
    try:
        message = refused(capsys, "predict", folder / "x.npz", folder / "images.npy")
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()
    assert message[:-1].isprintable()
    assert len(message) < 2200
    (folder / "x.json").write_text(json.dumps(CONFIGS[name]))
    for command in (["convert"], ["fold"], ["export-onnx"]):
        options = ["--config", folder / "x.json"]
        refused(capsys, *command, folder / "net.npz", folder / "out.npz", *options)
    assert not (folder / "out.npz").exists()


@pytest.mark.parametrize(
    "text", [b"", b"[" * 100_000, b"\xff", b"{", b"nul", b'{"a":' * 100_000, b"9" * 5000]
)
def test_a_config_that_is_no_json(text, folder, capsys):
    (folder / "x.json").write_bytes(text)
    message = refused(
        capsys, "fold", folder / "net.npz", folder / "out.npz", "--config", folder / "x.json"
    )
    assert "x.json" in message or "from_config" in message


def test_a_network_nested_deeply(folder, capsys):
    config = {"type": "ReLU"}
    for _ in range(300):
        config = {"type": "Sequential", "layers": {"0": config}}
    with_config(folder / "x.npz", config)
    refused(capsys, "predict", folder / "x.npz", folder / "images.npy")


def test_a_layer_with_a_high_number_is_not_counted_up_to(folder, capsys):
    for number in ("999999999", "9" * 400, "٣"):
        npbn.save({f"{number}.weight": np.ones((2, 2))}, folder / "x.npz")
        refused(capsys, "predict", folder / "x.npz", folder / "images.npy")


# -- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_keys_and_metadata_are_shown_printable_and_short(suffix, tmp_path, capsys):
    keys = ["a\nb\x1b[31m", "\u202egnp", "k" * 10**6, "é"]
    path = tmp_path / f"x{suffix}"
    if suffix == ".pt":
        torch.save({**{key: torch.ones(1) for key in keys}, "\x1b": "\x1b[31m" * 10**5}, path)
    else:
        state = {key: np.ones(1) for key in keys} | {"\udcff": np.ones(1), "v": "\x1b" * 10**5}
        npbn.save(state, path, metadata={"\x1b[31m": "\x1b[0m" * 10**5})
    lines = run(capsys, "info", path)
    assert all(line.isprintable() for line in lines)
    assert any(line.startswith(r"a\nb\x1b[31m  ") for line in lines)
    assert any(line.startswith("é  ") for line in lines)
    assert max(map(len, lines)) < 2600
    for line in run(capsys, "diff", path, path):
        assert line.isprintable()
    assert sum(map(len, lines)) < 10_000


def test_one_long_key_does_not_widen_every_line(tmp_path, capsys):
    state = {"k" * 10**5: np.ones(1)} | {str(i): np.ones(1) for i in range(1000)}
    npbn.save(state, tmp_path / "x.npz")
    assert sum(map(len, run(capsys, "info", tmp_path / "x.npz"))) < 150_000


def test_a_message_holds_no_long_key(folder, capsys):
    npbn.save({"k" * 500_000: np.ones(1)}, folder / "x.npz")
    for arguments in (["fold", folder / "x.npz", folder / "y.npz"],
                      ["fold", folder / "x.npz", folder / "y.npz", "--network", "mlp"],
                      ["info", folder / "x.npz", "--key", "a"]):  # fmt: skip
        assert len(refused(capsys, *arguments)) < 2200


@pytest.mark.parametrize("tolerance", ["nan", "-1", "-inf", "x", "-1e-300", "1\x1b"])
def test_a_tolerance_is_a_number_from_0(tolerance, folder, capsys):
    arguments = ["diff", folder / "net.npz", folder / "net.npz", f"--tolerance={tolerance}"]
    assert "expected a number of at least 0" in refused(capsys, *arguments)


@pytest.mark.process
def test_who_reads_may_stop_reading(tmp_path):
    npbn.save({str(i): np.ones(1) for i in range(20_000)}, tmp_path / "x.npz")
    program = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'npbn', 'info', sys.argv[1]]\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "child.stdout.close()\n"
        "print(child.stderr.read(), child.wait())\n"
    )
    assert run_python("-c", program, tmp_path / "x.npz").out == "b'' 141\n"


@pytest.mark.process
def test_a_terminal_without_the_characters(tmp_path):
    npbn.save({"é∑": np.ones(1)}, tmp_path / "x.npz")
    done = run_python("-m", "npbn", "info", tmp_path / "x.npz", env={"PYTHONIOENCODING": "ascii"})
    assert done.out.splitlines()[0].startswith(r"\xe9\u2211")


# -- what a training program saves ----------------------------------------------------------------


def training_run(path):
    net = torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.BatchNorm1d(5))
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    args = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": state, "args": args, "epoch": 3, "best": np.float64(0.5)}, path)
    return state


def test_info_shows_what_is_within_and_the_command_that_takes_it(folder, capsys):
    path = folder / "my run.pth.tar"
    state = training_run(path)
    lines = run(capsys, "info", path)
    assert "state_dict        a mapping of 7" in " ".join(lines) or any(
        line.startswith("state_dict ") and line.endswith("a mapping of 7") for line in lines
    )
    (way,) = [line for line in lines if line.startswith("a state_dict: ")]
    words = shlex.split(way.removeprefix("a state_dict: "))
    assert words[:2] == ["npbn", "convert"]
    words[words.index("OUT.npz")] = str(folder / "out.npz")
    run(capsys, *words[1:])
    found = npbn.load(folder / "out.npz")
    assert {f"module.{key}" for key in found} == state.keys()
    lines = run(capsys, "predict", path, folder / "images.npy", *words[4:])
    assert len(lines) == 3


LEAVES = st.just(np.ones(1)) | st.just(3)
KEYS = st.sampled_from(["a", "b", "a.b", "module.a", 1, "1", None, "", "-a", "a\nb", r"a\nb", "'"])
KEYS |= st.just("k" * 90)
STATES = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=4))


@given(st.dictionaries(KEYS, STATES, max_size=4))
def test_every_command_that_info_shows_works(tmp_path_factory, state):
    """Integer keys, keys with several dots and keys with newlines were shown, and not found."""
    folder = tmp_path_factory.mktemp("x")
    npbn.save(state, folder / "x.npz")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        main(["info", str(folder / "x.npz")])
        for line in shown.getvalue().splitlines():
            if line.startswith("a state_dict: "):
                words = shlex.split(line.removeprefix("a state_dict: npbn "))
                words[words.index("OUT.npz")] = str(folder / "out.npz")
                assert main(words) == 0
                found = npbn.load(folder / "out.npz")
                assert found
                assert all(isinstance(array, np.ndarray) for array in found.values())


def test_the_name_of_a_file_is_shown_printable(tmp_path, capsys):
    path = tmp_path / "\x1b[31m.pt"
    training_run(path)
    assert all(line.isprintable() for line in run(capsys, "info", path))


def test_other_commands_say_how_too(folder, capsys):
    path = folder / "run.pt"
    training_run(path)
    for command in (["fold", path, folder / "out.npz"], ["predict", path, folder / "images.npy"]):
        message = refused(capsys, *command)
        assert "--key state_dict --strip-prefix module." in message
        message = refused(capsys, *command, "--key", "state_dict")
        assert "--strip-prefix module." in message


def test_a_root_that_is_no_mapping(folder, capsys):
    for value in (torch.ones(2), [torch.ones(2)], None, 5, "text"):
        torch.save(value, folder / "x.pt")
        for command in ("info", "convert", "diff", "predict"):
            more = {"info": [], "convert": [folder / "y.npz"]}.get(command, [folder / "images.npy"])
            message = refused(capsys, command, folder / "x.pt", *more)
            assert "expected a mapping of names to tensors" in message


@pytest.mark.parametrize("make", [
    lambda: npbn.Sequential(npbn.MaxPool2d(2), npbn.Flatten(), npbn.Linear(3, 2)),
    lambda: npbn.Sequential(npbn.BatchNorm2d(3), npbn.Flatten(), npbn.Linear(12, 2)),
])  # fmt: skip
def test_export_of_networks_that_begin_with_pooling_or_batch_norm(make, folder, capsys):
    import onnx

    npbn.save(make().eval(), folder / "x.npz")
    arguments = ["export-onnx", folder / "x.npz", folder / "x.onnx"]
    assert "pass input_shape" in refused(capsys, *arguments)
    run(capsys, *arguments, "--input-shape", "3,2,2")
    (entry,) = onnx.load(folder / "x.onnx").graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim][1:] == [3, 2, 2]
    for wrong in (
        "3",
        "3,2,0",
        "3,-2,2",
        "1,28,28",
        "x",
        "",
        "3,2,2,",
        "3," + "9" * 20,
        "3," + "9" * 5000,
    ):
        refused(capsys, *arguments, f"--input-shape={wrong}")
