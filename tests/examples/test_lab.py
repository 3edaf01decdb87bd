"""The laboratory as its users run it: the command line, interruptions, and errors."""

import json
import signal
import sys
from pathlib import Path

import pytest
from processes import needs_signals, started

from examples.lab import EXPERIMENTS, sensitivity
from examples.lab.__main__ import main
from npbn.data import MNIST, write_idx

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "examples.lab"]
TRIALS = 6 * 5 * 2 * 2
pytestmark = pytest.mark.process  # the laboratory works in processes of its own


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    """Write a data set of 80 and 50 digits."""
    folder, source = tmp_path_factory.mktemp("digits"), ROOT / "examples" / "data" / "mnist-5k"
    for half, count in (("train", 80), ("t10k", 50)):
        digits = MNIST(source, half == "train", flatten=False)
        images, labels = (digits.images[:count] * 255).round().astype("uint8"), digits.labels
        write_idx(folder / f"{half}-images-idx3-ubyte", images)
        write_idx(folder / f"{half}-labels-idx1-ubyte", labels[:count].astype("uint8"))
    return folder


def quick(out, data, *words):
    """Run one experiment, with two steps in place of a hundred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sensitivity.BUDGETS, "quick", (1, 2, 2))
        return main(["sensitivity", "--quick", "--out", str(out), "--data", str(data), *words])


@pytest.fixture(scope="module")
def whole(few_digits, tmp_path_factory):
    """Return the folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert quick(folder, few_digits) == 0
    return folder


def test_an_experiment_leaves_results_pictures_and_a_page(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        "index.html",
        "sensitivity.json",
        "sensitivity_map_with.png",
        "sensitivity_map_with_dark.png",
        "sensitivity_map_without.png",
        "sensitivity_map_without_dark.png",
        "sensitivity_pictures.json",
    ]


@pytest.mark.slow
def test_half_a_run_and_the_other_half_give_what_a_whole_one_gives(
    whole, few_digits, tmp_path, capsys
):
    lines = (whole / "sensitivity.json").read_text().splitlines()
    kept = lines[: 2 + TRIALS // 3]
    kept[-1] = kept[-1].rstrip(",")
    (tmp_path / "sensitivity.json").write_text("\n".join([*kept, "]}"]))
    assert quick(tmp_path, few_digits) == 0
    shown = capsys.readouterr().out
    assert f"{TRIALS // 3} of {TRIALS} trials are there already" in shown
    assert f"\n{sensitivity.TITLE}: not supported\n" in shown
    for path in whole.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_what_is_done_is_neither_run_nor_drawn_again(whole, few_digits, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*.png")}
    page = (whole / "index.html").read_bytes()
    assert quick(whole, few_digits) == 0
    shown = capsys.readouterr().out
    assert f"{TRIALS} of {TRIALS} trials are there already" in shown
    assert "drawing" not in shown
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*.png")} == before
    assert (whole / "index.html").read_bytes() == page


def test_a_picture_that_is_gone_is_drawn_again(whole, few_digits, tmp_path, capsys):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sensitivity_map_with.png").unlink()
    assert quick(tmp_path, few_digits) == 0
    assert "\ndrawing: sensitivity\n" in capsys.readouterr().out
    for path in whole.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_half_written_file_is_told_of_moved_aside_and_made_again(few_digits, tmp_path, capsys):
    (tmp_path / "sensitivity.json").write_text('{"made_with": {"bud')
    assert quick(tmp_path, few_digits) == 0
    first, told = capsys.readouterr().out.splitlines()[:2]
    assert first == f"sensitivity: quick scale, into {tmp_path}"
    assert told == (
        f"{tmp_path / 'sensitivity.json'} is damaged: moved aside, to sensitivity.json.old1, "
        "and run again"
    )
    assert (tmp_path / "sensitivity.json.old1").read_text() == '{"made_with": {"bud'
    assert len(json.loads((tmp_path / "sensitivity.json").read_text())["results"]) == TRIALS


def test_an_unknown_experiment_is_refused_with_those_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sensitivty", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "sensitivty" in told
    assert all(name in told for name in EXPERIMENTS)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_shows_before_the_work(tmp_path, few_digits, capsys):
    (tmp_path / "file").write_text("mine")
    assert quick(tmp_path / "file", few_digits) == 2
    told = capsys.readouterr().err
    assert told.startswith("lab: error: ")
    assert str(tmp_path / "file") in told
    assert told.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_data_are_told_of_in_one_line(tmp_path, capsys):
    assert quick(tmp_path / "out", tmp_path / "nowhere") == 2
    told = capsys.readouterr().err
    assert str(tmp_path / "nowhere") in told
    assert told.count("\n") == 1


def test_a_data_set_smaller_than_a_batch_is_told_of(tmp_path, few_digits, capsys):
    digits = tmp_path / "digits"
    digits.mkdir()
    for path in few_digits.iterdir():
        (digits / path.name).write_bytes(path.read_bytes())
    small = MNIST(digits, flatten=False)
    write_idx(digits / "train-images-idx3-ubyte", (small.images[:20] * 255).astype("uint8"))
    write_idx(digits / "train-labels-idx1-ubyte", small.labels[:20].astype("uint8"))
    assert quick(tmp_path / "out", digits) == 2
    assert "expected at least 64 training images, got 20" in capsys.readouterr().err


def test_results_that_the_code_cannot_read_are_named(whole, few_digits, tmp_path, capsys):
    path = tmp_path / "sensitivity.json"
    text = (whole / "sensitivity.json").read_text()
    path.write_text(text.replace('"accuracy"', '"precision"'))
    assert quick(tmp_path, few_digits) == 2
    assert f"{path} has results that sensitivity cannot read" in capsys.readouterr().err
    assert path.read_text().count('"precision"') == TRIALS


@pytest.mark.slow
def test_an_experiment_left_out_of_the_page_is_told_of(whole, few_digits, tmp_path, capsys):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "depth.json").write_text("{}")
    assert quick(tmp_path, few_digits) == 0
    told = f"left out of the page: {tmp_path / 'depth.json'} is damaged"
    assert told in capsys.readouterr().out
    assert (tmp_path / "depth.json").read_text() == "{}"


@needs_signals
@pytest.mark.parametrize(
    "kind", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_interrupted_it_keeps_what_is_done_and_leaves_no_process(kind, few_digits, tmp_path):
    # As many steps as the default takes: the run is ended long before.
    path = tmp_path / "sensitivity.json"
    command = [*COMMAND, "sensitivity", "--out", tmp_path, "--data", few_digits]
    with started(*command) as process:
        process.until(lambda: path.exists() and '"trial"' in path.read_text())
        process.send(kind)
        code, _, told = process.wait()  # for all its processes
    if kind == signal.SIGINT:
        assert code == 130
        assert told == "lab: interrupted; the same command goes on from here\n"
    done = json.loads(path.read_text())["results"]
    assert 0 < len(done) < len(sensitivity.trials("default"))
