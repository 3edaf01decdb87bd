"""The example on several ranks: its numbers, its files, and runs that are killed and resumed."""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import needs_signals, run_process, run_python, started

from npbn.checkpoint import load
from npbn.data import write_idx

pytest.importorskip("mpi4py")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "mnist_mpi.py"
MPIEXEC = Path(sys.executable).parent / "mpiexec"
EPOCHS = 5
FEW = ["--epochs", EPOCHS, "--batch-size", "16", "--hidden-dim", "8", "--dtype", "float64"]
AGREE = 1e-11  # of losses in float64, over all steps of these runs
APART = 1e-4  # what BatchNorm of each rank by itself makes at least

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside python"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write images that split into shards of different sizes, the last batch above all."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for half, count in (("train", 250), ("t10k", 22)):
        images = rng.integers(0, 256, (count, 6, 9), dtype=np.uint8)
        write_idx(folder / f"{half}-images-idx3-ubyte", images)
        write_idx(folder / f"{half}-labels-idx1-ubyte", rng.integers(0, 10, count, dtype=np.uint8))
    return folder


def command(ranks, *words):
    """Return the command that runs Python on some ranks, without mpiexec on one."""
    return [*([MPIEXEC, "-n", ranks] if ranks > 1 else []), sys.executable, *words]


def run(ranks, *arguments, code=0):
    """Run the script to its end."""
    return run_process(*command(ranks, SCRIPT, *arguments), code=code)


KILLED = """
import os, runpy, signal, sys
from npbn.optim import SGD
rank, left, step = int(sys.argv.pop(1)), int(sys.argv.pop(1)), SGD.step

def counted(optimizer):
    global left
    left -= 1
    if left == 0 and rank == int(os.environ.get("PMI_RANK", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    step(optimizer)

SGD.step = counted
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_killed(ranks, rank, step, *arguments):
    """Run the script, of which a rank kills itself before a step, counted from 1; it has to."""
    done = run_process(*command(ranks, "-c", KILLED, rank, step, SCRIPT, *arguments), code=None)
    assert done.code != 0, "it was not killed"


def runs_in(out):
    """Return what results.json says of each run, by ranks and whether it was synchronised."""
    found = json.loads((out / "results.json").read_text())
    return {(run["ranks"], run["synchronised"]): run for run in found["runs"]}


def assert_agree(run, other, limit=AGREE):
    assert len(run["losses"]) == EPOCHS * 16, "batches of 16 of 250 images"
    np.testing.assert_allclose(run["losses"], other["losses"], rtol=0, atol=limit)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    return run(2, *FEW, "--data", data, "--out", out), out


def test_two_ranks_and_one_have_the_same_losses_if_synchronised(undisturbed):
    result, out = undisturbed
    assert result.err == ""
    found = runs_in(out)
    assert found.keys() == {(2, True), (2, False), (1, True), (1, False)}
    alone = found[1, False]
    for ranks in (1, 2):
        assert found[ranks, True]["max_abs_diff"] < AGREE
        assert_agree(found[ranks, True], alone)
    assert found[2, False]["max_abs_diff"] > APART
    assert np.abs(np.subtract(found[2, False]["losses"], alone["losses"])).max() > APART
    for one in found.values():
        assert len(one["accuracies"]) == len(one["seconds"]) == EPOCHS
        assert one["by"] == [one["ranks"]] * EPOCHS
    assert sorted(path.name for path in out.iterdir()) == ["losses.png", "results.json"]
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_the_differences_that_were_measured(undisturbed):
    result, out = undisturbed
    found = runs_in(out)
    (row,) = re.findall(r"^ +2 +(\S+) +(\S+)% +(\S+) +(\S+)%$", result.out, re.MULTILINE)
    for kind, (difference, accuracy) in ((True, row[:2]), (False, row[2:])):
        assert float(difference) == pytest.approx(found[2, kind]["max_abs_diff"], rel=0.1)
        assert float(accuracy) == pytest.approx(100 * found[2, kind]["accuracies"][-1], abs=0.01)
    assert "below the 1e-09" in result.out


def test_the_loss_of_an_epoch_is_the_mean_over_its_images(undisturbed):
    result, out = undisturbed
    shown = re.search(r"^ +1 +(\S+) ", result.out, re.MULTILINE)[1]
    sizes = [16] * 15 + [10]
    expected = np.average(runs_in(out)[2, True]["losses"][:16], weights=sizes)
    assert float(shown) == pytest.approx(expected, abs=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_four_ranks_show_one_two_and_four(data, tmp_path, network):
    run(4, *FEW, "--data", data, "--out", tmp_path, "--network", network)
    found = runs_in(tmp_path)
    assert found.keys() == {(ranks, kind) for ranks in (1, 2, 4) for kind in (True, False)}
    for (ranks, synchronised), one in found.items():
        if synchronised:
            assert_agree(one, found[1, False])
        elif ranks > 1:
            assert one["max_abs_diff"] > APART


@pytest.mark.slow
def test_the_digits_in_float32(tmp_path):
    run(2, "--epochs", "1", "--out", tmp_path)
    found = runs_in(tmp_path)
    assert found[2, True]["max_abs_diff"] < 1e-5 < APART < found[2, False]["max_abs_diff"]


# -- runs that are killed --------------------------------------------------------------------


@needs_signals
@pytest.mark.parametrize(
    ("first", "killed", "then"), [(2, 1, 1), pytest.param(1, 0, 3, marks=pytest.mark.slow)]
)
def test_a_killed_run_is_resumed_by_another_number_of_ranks(
    data, tmp_path, undisturbed, first, killed, then
):
    words = [*FEW, "--data", data, "--out", tmp_path]
    run_killed(first, killed, 16 + 8, *words)  # in the middle of the second epoch
    assert not (tmp_path / "results.json").exists()
    state = load(tmp_path / "checkpoint.npz")["all ranks, synchronised"]
    assert state["epoch"] == 1
    assert all(np.isfinite(array).all() for array in state["net"].values())

    result = run(then, *words, "--resume")
    assert f"resumed after epoch {state['epoch']}, by {first} rank" in result.out
    resumed = runs_in(tmp_path)[then, True]
    assert resumed["by"] == [first] * state["epoch"] + [then] * (EPOCHS - state["epoch"])
    for other in ((2, True), (1, False)):
        assert_agree(resumed, runs_in(undisturbed[1])[other])


@pytest.mark.slow
def test_killed_at_random_moments(data, tmp_path, undisturbed):
    """Any rank, at any step, time and again, on 1 to 4 ranks; the file stays whole."""
    words, rng = [*FEW, "--data", data, "--out", tmp_path], random.Random(0)
    words += ["--checkpoint", tmp_path / "run.safetensors", "--resume"]
    epochs = [0]
    for attempt in range(6):
        ranks = attempt % 4 + 1
        run_killed(ranks, rng.randrange(ranks), rng.randint(1, 40), *words)
        saved = load(tmp_path / "run.safetensors").get("all ranks, synchronised", {"epoch": 0})
        epochs.append(saved["epoch"])
    assert epochs == sorted(epochs)
    assert epochs[-1] > 0, "it never came on"
    run(2, *words)
    assert_agree(runs_in(tmp_path)[2, True], runs_in(undisturbed[1])[2, True])
    again = run(4, *words)
    assert "its epochs were trained by" in again.out
    assert (tmp_path / "run.safetensors").exists(), "it was asked for"
    assert_agree(runs_in(tmp_path)[4, True], runs_in(undisturbed[1])[2, True])


# -- errors ----------------------------------------------------------------------------------


def assert_one_line_error(result, *words):
    errors = [line for line in result.err.splitlines() if "error: " in line]
    assert len(errors) == 1, result.err
    assert "Traceback" not in result.err
    assert all(word in errors[0] for word in words), errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], ["nowhere", "train-images-idx3-ubyte"]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (["--epochs", "0"], ["--epochs", "above 0"]),
                (["--seed", "-1"], ["--seed", "0 or more"]),
                (["--out", ROOT / "LICENSE"], ["LICENSE"]),
                (["--checkpoint", "run.pkl"], ["run.pkl", ".npz"]),
                (["--checkpoint", ROOT / "missing" / "run.npz"], ["missing"]),
                (["--checkpoint", ROOT / "LICENSE", "--resume"], ["LICENSE"]),
                (["--batch-size", "1", "--network", "cnn"], ["2 ranks", "--batch-size"]),
                (["--batch-size", "4"], ["a batch of 2 of the 250", "one of 2 ranks"]),
            ]
        ),
    ],
)
def test_what_cannot_begin_says_so_in_one_line(data, tmp_path, arguments, words):
    result = run(2, "--data", data, "--out", tmp_path / "out", *arguments, code=2)
    assert_one_line_error(result, *words)


@pytest.mark.slow
def test_a_checkpoint_of_other_options_is_refused(data, tmp_path):
    words = [*FEW, "--data", data, "--out", tmp_path, "--checkpoint", tmp_path / "run.npz"]
    run(1, *words)
    before = (tmp_path / "run.npz").read_bytes()
    result = run(2, *words, "--resume", "--lr", "0.5", "--seed", "3", code=2)
    assert_one_line_error(result, "--lr was 0.01, is 0.5", "--seed was 0, is 3")
    assert (tmp_path / "run.npz").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_diverges_ends_on_every_rank(data, tmp_path):
    for ranks in (1, 2):
        result = run(ranks, *FEW, "--lr", "1e300", "--data", data, "--out", tmp_path, code=2)
        assert "Traceback" not in result.err
        for rank in range(ranks):
            assert len(re.findall(f"error on rank {rank}: ", result.err)) == 1, result.err


@needs_signals
@pytest.mark.slow
def test_what_only_rank_0_meets_the_others_learn(data, tmp_path):
    out = tmp_path / "out"
    words = [*FEW, "--epochs", "1000", "--data", data, "--out", out]
    with started(*command(2, SCRIPT, *words)) as process:
        process.line(r"^ +1 ")
        out.rename(tmp_path / "gone")
        result = process.wait()
    assert result.code != 0
    assert "Traceback" not in result.err
    assert re.search(r"error on rank 0: .*checkpoint\.npz", result.err), result.err
    assert re.search(r"error on rank 1: rank 0: .*checkpoint\.npz", result.err), result.err


def test_without_mpi4py_one_line_says_what_to_install():
    program = (
        f"import runpy, sys\nsys.modules['mpi4py'] = None\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    result = run_python("-c", program, code=2)
    assert result.err == "mnist_mpi needs mpi4py: pip install -e '.[examples,mpi]'\n"
