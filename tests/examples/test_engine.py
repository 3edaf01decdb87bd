"""The option --engine, which three examples take."""

import argparse
import json
import sys

import engine
import mnist_compare
import mnist_report
import numpy as np
import options
import pytest

import npbn
from examples.lab.__main__ import main as lab
from npbn.data import write_idx
from npbn.engines import choice
from npbn.errors import NpbnError

QUICK = ["--epochs", "1", "--hidden-dim", "4", "--batch-size", "6", "--no-torch"]


@pytest.fixture(autouse=True)
def same_engine():
    """Leave engine and threads as they were."""
    threads = npbn.get_num_threads()
    with npbn.using_engine(npbn.get_engine()):
        yield
    npbn.set_num_threads(threads)


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Write 12 and 6 images; return the arguments of a quick run on them, without pictures."""
    rng = np.random.default_rng(0)
    for half, count in (("train", 12), ("t10k", 6)):
        images = rng.integers(0, 256, (count, 2, 3), dtype=np.uint8)
        write_idx(tmp_path / f"{half}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{half}-labels-idx1-ubyte", rng.integers(0, 10, count, np.uint8))
    monkeypatch.setattr(mnist_report, "_plot_losses", lambda *_: None)
    return [*QUICK, "--data", str(tmp_path), "--out", str(tmp_path)]


def chosen(*arguments):
    parser = argparse.ArgumentParser()
    options.add_engine(parser)
    found = parser.parse_args(arguments)
    engine.choose(found)
    return found.engine


def test_without_the_option_the_environment_decides(monkeypatch):
    for name, expected in ((None, "numpy"), ("numpy", "numpy")):
        monkeypatch.setattr(choice, "_chosen", None)
        monkeypatch.delenv("NPBN_ENGINE", raising=False)
        if name:
            monkeypatch.setenv("NPBN_ENGINE", name)
        assert chosen() == expected


def test_the_option_is_stronger_than_the_environment(monkeypatch):
    monkeypatch.setattr(choice, "_chosen", None)
    monkeypatch.setenv("NPBN_ENGINE", "typo")
    assert chosen("--engine", "numpy") == npbn.get_engine() == "numpy"


def test_an_unknown_engine_in_the_environment_is_one_line(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(choice, "_chosen", None)
        patch.setenv("NPBN_ENGINE", "typo")
        with pytest.raises(NpbnError, match=r"^NPBN_ENGINE: expected one of .*, got 'typo'$"):
            chosen()


@pytest.fixture
def no_numba(monkeypatch):
    """Have every import of numba fail."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "numba" or name.startswith("npbn.engines.numba_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)


@pytest.mark.parametrize("program", ["mnist_compare", "mnist_mpi", "lab"])
def test_a_missing_numba_is_one_line_and_status_2(program, no_numba, few, capsys, tmp_path):
    arguments = few
    if program == "lab":
        main, arguments = lab, ["sensitivity", "--quick", "--out", str(tmp_path)]
    elif program == "mnist_mpi":
        main = pytest.importorskip("mnist_mpi").main
        arguments = [word for word in few if word != "--no-torch"]
    else:
        main = mnist_compare.main
    before = npbn.get_engine()
    assert main([*arguments, "--engine", "numba"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{program}: error: set_engine: the engine 'numba' cannot be loaded (")
    assert line.endswith("pip install 'npbn[fast]'")
    assert npbn.get_engine() == before


def test_the_numpy_engine_gains_nothing_and_nothing_is_said_of_it(few, capsys, tmp_path):
    assert mnist_compare.main([*few, "--engine", "numpy"]) == 0
    assert "npbn's engine numpy" in (shown := capsys.readouterr().out)
    assert "times as fast" not in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["engine"] == "numpy"
    assert results["engine_gain"] == {"batchnorm": None, "plain": None}


@pytest.mark.slow
def test_the_compiled_engine_says_what_it_gains(few, capsys, tmp_path):
    pytest.importorskip("numba")
    assert mnist_compare.main([*few, "--engine", "numba"]) == 0
    shown = capsys.readouterr().out
    assert "npbn's engine numba" in shown
    assert shown.count("times as fast as with the NumPy engine") == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(gain > 0 for gain in results["engine_gain"].values())


def test_gain_leaves_the_network_and_the_engine_as_they_are():
    rng = np.random.default_rng(0)
    net = npbn.MLP(6, 4, 10, rng=rng)
    before, used = net.state_dict(), npbn.get_engine()
    x, target = rng.random((8, 6), np.float32), rng.integers(0, 10, 8)
    assert engine.gain(net, x, target) > 0
    assert npbn.get_engine() == used
    for name, values in net.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_run_is_not_resumed_with_another_engine(few, capsys, monkeypatch, tmp_path):
    path = str(tmp_path / "state.npz")
    assert mnist_compare.main([*few, "--engine", "numpy", "--checkpoint", path]) == 0
    capsys.readouterr()
    monkeypatch.setattr(engine, "choose", lambda options: None)
    resume = ["--checkpoint", path, "--resume", "--engine", "numba"]
    assert mnist_compare.main([*few, *resume]) == 2
    assert "--engine was numpy, is numba" in capsys.readouterr().err
