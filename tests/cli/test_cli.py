"""The command line: what it prints, what it writes, and how it fails."""

import json

import numpy as np
import pytest
import torch
from processes import run_python

import npbn
from npbn.cli import main
from npbn.data import write_idx

RNG = np.random.default_rng(0)


@pytest.fixture
def net():
    """Return a network with statistics as training leaves them."""
    net = npbn.MLP(12, 5, 4, rng=np.random.default_rng(1))
    for key, array in net.state_dict().items():
        if array.ndim == 1:
            array[...] = np.random.default_rng(2).uniform(0.5, 2, array.shape)
            net.load_state_dict({key: array}, strict=False)
    return net


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(3).random((7, 3, 4)).astype(np.float32))
    return path


def run(capsys, *arguments, status=0):
    """Run a command in this process; return what it printed, as lines."""
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    """Run a command that fails; return its one line of complaint."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("npbn")
    return err


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_info_shows_every_array_and_the_metadata(suffix, net, tmp_path, capsys):
    path = tmp_path / f"net{suffix}"
    npbn.save(net, path, metadata={"epoch": 3})
    lines = run(capsys, "info", path)
    arrays = net.state_dict()
    for line, (key, array) in zip(lines[: len(arrays)], arrays.items(), strict=True):
        assert line.split(maxsplit=2) == [key, str(array.dtype), str(array.shape)]
    assert "epoch: 3" in lines
    total = sum(array.size for array in net.state_dict().values())
    assert any(f"{total} numbers" in line for line in lines)
    assert not any("unhealthy" in line for line in lines)


def test_info_finds_statistics_that_look_ill_and_says_so_by_its_status(net, tmp_path, capsys):
    net.batch_norm1.running_var[:2] = -1, 0
    net.fc1.weight.data[0, :3] = np.nan, np.inf, np.nan
    npbn.save(net, tmp_path / "net.npz")
    lines = [
        line for line in run(capsys, "info", tmp_path / "net.npz", status=1) if "unhea" in line
    ]
    assert lines == [
        "unhealthy: fc1.weight: 2 of 60 are NaN",
        "unhealthy: fc1.weight: 1 of 60 are infinite",
        "unhealthy: batch_norm1.running_var: 1 of 5 variances are negative",
        "unhealthy: batch_norm1.running_var: 1 of 5 variances are zero: a dead channel",
    ]


def test_convert_from_torchs_file_and_between_formats(net, tmp_path, capsys):
    state = {key: torch.from_numpy(value) for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    run(capsys, "convert", tmp_path / "net.pt", tmp_path / "net.npz")
    run(capsys, "convert", tmp_path / "net.npz", tmp_path / "net.safetensors")
    assert all(
        line.endswith("  0")
        for line in run(capsys, "diff", tmp_path / "net.pt", tmp_path / "net.safetensors")
    )
    found = npbn.load(tmp_path / "net.safetensors")
    assert found.keys() == state.keys()


def test_convert_keeps_the_metadata_and_adds_a_description(net, tmp_path, capsys):
    npbn.save(net.state_dict(), tmp_path / "net.npz", metadata={"epoch": 3})
    (tmp_path / "net.json").write_text(json.dumps(npbn.to_config(net)))
    config = ("--config", tmp_path / "net.json")
    run(capsys, "convert", tmp_path / "net.npz", tmp_path / "other.npz", *config)
    found = npbn.load(tmp_path / "other.npz").metadata
    assert found["epoch"] == 3
    assert found["config"] == npbn.to_config(net)


def test_fold_writes_an_equal_network_without_batch_norm(net, images, tmp_path, capsys):
    npbn.save(net, tmp_path / "net.npz", metadata={"epoch": 3})
    run(capsys, "fold", tmp_path / "net.npz", tmp_path / "folded.safetensors")
    found = npbn.load(tmp_path / "folded.safetensors")
    assert found.metadata["epoch"] == 3
    assert not any("norm" in key for key in found)
    folded = npbn.from_config(found.metadata["config"])
    folded.load_state_dict(found)
    x = np.load(images).reshape(7, -1)
    np.testing.assert_allclose(folded.predict(x), net.predict(x), rtol=1e-4, atol=1e-5)


def test_export_onnx(net, tmp_path, capsys):
    import onnx

    npbn.save(net, tmp_path / "net.npz")
    for options, expected in (((), True), (("--fold",), False)):
        run(capsys, "export-onnx", tmp_path / "net.npz", tmp_path / "net.onnx", *options)
        nodes = onnx.load(tmp_path / "net.onnx").graph.node
        assert any(node.op_type == "BatchNormalization" for node in nodes) == expected


def test_diff_shows_differences_and_tells_by_its_status(net, tmp_path, capsys):
    state = net.state_dict()
    npbn.save(state, tmp_path / "a.npz")
    assert all(
        line.endswith("  0") for line in run(capsys, "diff", tmp_path / "a.npz", tmp_path / "a.npz")
    )
    other = {key: value.copy() for key, value in state.items()}
    other["fc1.weight"][0, 0] += 0.25
    other["fc2.weight"] = other["fc2.weight"].T[:4]
    other["more"] = other.pop("fc3.bias")
    other["batch_norm1.bias"][0] = np.nan
    npbn.save(other, tmp_path / "b.npz")
    lines = run(capsys, "diff", tmp_path / "a.npz", tmp_path / "b.npz", status=1)
    found = dict(line.split(maxsplit=1) for line in lines)
    assert found["fc1.weight"] == "0.25"
    assert found["fc2.weight"] == "shapes (5, 5) and (4, 5)"
    assert found["fc3.bias"] == f"only in {tmp_path / 'a.npz'}"
    assert found["more"] == f"only in {tmp_path / 'b.npz'}"
    assert found["batch_norm1.bias"] == "nan"
    assert found["fc3.weight"] == "0"


def test_arrays_whose_dotted_names_are_equal_are_shown_apart(tmp_path, capsys):
    """One of them was hidden, and so was its difference."""
    one, two = np.zeros(1), np.ones(1)
    npbn.save({"a": {"b": one}, "a.b": one, 1: one, "1": one, "c": one}, tmp_path / "a.npz")
    npbn.save({"a": {"b": two}, "a.b": one, 1: one, "1": two, "c": two}, tmp_path / "b.npz")
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    lines = run(capsys, "diff", *paths, status=1)
    assert dict(map(str.split, lines)) == {
        "['a']['b']": "1", "['a.b']": "0", "[1]": "0", "['1']": "1", "c": "1",
    }  # fmt: skip
    lines = run(capsys, "info", paths[0])
    assert [line.split()[0] for line in lines[:5]] == ["['a']['b']", "['a.b']", "[1]", "['1']", "c"]
    assert any(line.startswith("5 arrays, 5 numbers") for line in lines)


def test_diff_with_a_tolerance(tmp_path, capsys):
    npbn.save({"a": np.array([1.0, np.nan, np.inf])}, tmp_path / "a.npz")
    npbn.save({"a": np.array([1.5, np.nan, np.inf], np.float32)}, tmp_path / "b.npz")
    paths = (tmp_path / "a.npz", tmp_path / "b.npz")
    run(capsys, "diff", *paths, status=1)
    run(capsys, "diff", *paths, "--tolerance", 0.4, status=1)
    assert run(capsys, "diff", *paths, "--tolerance", 0.5) == ["a  0.5 (float64 and float32)"]


def test_predict_prints_a_class_a_line_or_the_logits(net, images, tmp_path, capsys):
    npbn.save(net, tmp_path / "net.npz")
    logits = net.predict(np.load(images).reshape(7, -1))
    lines = run(capsys, "predict", tmp_path / "net.npz", images)
    assert list(map(int, lines)) == logits.argmax(axis=1).tolist()
    lines = run(capsys, "predict", tmp_path / "net.npz", images, "--logits")
    np.testing.assert_array_equal(
        np.array([line.split(",") for line in lines], np.float64).astype(np.float32), logits
    )


def test_predict_takes_bytes_as_mnist_has_them_and_images_for_convolutions(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    write_idx(tmp_path / "images-idx3-ubyte", pixels)
    net = npbn.CNN(1, 8, 5, 4, rng=np.random.default_rng(0)).eval()
    npbn.save(net, tmp_path / "net.npz")
    lines = run(capsys, "predict", tmp_path / "net.npz", tmp_path / "images-idx3-ubyte", "--logits")
    expected = net.predict((pixels / np.float32(255)).astype(np.float32)[:, None])
    found = np.array([line.split(",") for line in lines], np.float64).astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_network_by_name_for_files_that_say_nothing_of_it(name, tmp_path, capsys):
    net = (npbn.MLP if name == "mlp" else npbn.CNN)(rng=np.random.default_rng(0)).eval()
    npbn.save(net.state_dict(), tmp_path / "net.npz")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((3, 28, 28)))
    images = tmp_path / "images.npy"
    lines = run(capsys, "predict", tmp_path / "net.npz", images, "--network", name)
    assert len(lines) == 3
    complaint = refused(capsys, "predict", tmp_path / "net.npz", images)
    assert "pass --network or --config" in complaint


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["info", "{}/none.npz"], ["none.npz"]),
        (["info", "{}"], ["irectory"]),
        (["info", "{}/empty.npz"], ["empty.npz"]),
        (["info", "{}/note.txt"], ["note.txt", ".npz"]),
        (["convert", "{}/net.npz", "{}/net.pt"], [".npz or .safetensors"]),
        (["convert", "{}/net.npz", "{}/no/net.npz"], ["no/net.npz"]),
        (["fold", "{}/net.npz", "{}/out.npz", "--config", "{}/note.txt"], ["JSON"]),
        (["fold", "{}/net.npz", "{}/out.npz", "--network", "mlp"], ["state_dict"]),
        (["predict", "{}/net.npz", "{}/note.txt"], ["note.txt"]),
        (["predict", "{}/net.npz", "{}/words.npy"], ["words.npy"]),
        (["diff", "{}/net.npz"], ["--help explains"]),
        (["undo", "{}/net.npz"], ["undo"]),
        ([], ["COMMAND"]),
    ],
)
def test_an_error_is_one_line_without_a_traceback(arguments, fragments, net, tmp_path, capsys):
    npbn.save(net, tmp_path / "net.npz")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "note.txt").write_text("nothing\n")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    complaint = refused(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert all(fragment in complaint for fragment in fragments), complaint
    assert not (tmp_path / "out.npz").exists()


def test_info_shows_the_description_that_a_file_carries(tmp_path, capsys):
    net = npbn.Sequential(block=npbn.Sequential(fc=npbn.Linear(3, 2)), relu=npbn.ReLU())
    npbn.save(net, tmp_path / "net.npz")
    lines = run(capsys, "info", tmp_path / "net.npz")
    start = lines.index("network:")
    assert lines[start + 1 : start + 3] == [
        "  block.fc: Linear(in_features=3, out_features=2, bias=True, dtype='float32')",
        "  relu: ReLU()",
    ]
    for config in ({}, 3, [{"type": 5}], {"layers": {"a": "b\x1b"}}):
        npbn.save(net.state_dict(), tmp_path / "net.npz", metadata={"config": config})
        lines = run(capsys, "info", tmp_path / "net.npz")
        assert "network:" in lines
        assert all(line.isprintable() for line in lines)


def test_commands_that_write_say_what(net, tmp_path, capsys):
    path = tmp_path / "net.npz"
    npbn.save(net, path)
    state = net.state_dict()
    what = f"{len(state)} arrays, {sum(a.size for a in state.values()):,} numbers, "
    (line,) = run(capsys, "convert", path, tmp_path / "other.npz")
    assert line.startswith(f"wrote {tmp_path / 'other.npz'}: {what}")
    assert line.endswith("bytes, with the description of the network")
    npbn.save(state, tmp_path / "plain.npz")
    (line,) = run(capsys, "convert", tmp_path / "plain.npz", tmp_path / "other.npz")
    assert line.endswith("bytes")
    (line,) = run(capsys, "fold", path, tmp_path / "other.npz")
    assert line.startswith(f"wrote {tmp_path / 'other.npz'}: 6 arrays, ")
    assert line.endswith("2 BatchNorm folded")
    (line,) = run(capsys, "export-onnx", path, tmp_path / "net.onnx")
    size = (tmp_path / "net.onnx").stat().st_size
    assert line.startswith(f"wrote {tmp_path / 'net.onnx'}: an ONNX model of {size:,} bytes")


def test_interrupted(net, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    npbn.save(net, tmp_path / "net.npz")
    monkeypatch.setattr(npbn, "load", interrupted)
    assert main(["info", str(tmp_path / "net.npz")]) == 130
    assert capsys.readouterr() == ("", "npbn info: interrupted\n")


@pytest.mark.process
def test_the_module_is_the_command_and_its_help_teaches():
    shown = run_python("-m", "npbn", "--help").out
    for word in ("info", "convert", "fold", "export-onnx", "diff", "predict", "exit status"):
        assert word in shown
