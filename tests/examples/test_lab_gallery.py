"""The laboratory's pictures are drawn once, as long as what they show stays the same."""

import json

import pytest

from examples.lab import gallery
from examples.lab.drawing import Rendered
from examples.lab.results import Results

TRIALS = [{"seed": 0}, {"seed": 1}]
PICTURES = [Rendered("map", "a map", b"light", b"dark"), Rendered("bars", "bars", b"1", b"")]


def results(folder, accuracy=0.5, **made_with):
    found = Results(folder / "none.json", made_with, TRIALS)
    for trial in TRIALS:
        found.add(trial, {"accuracy": accuracy})
    return found


@pytest.fixture
def folder(tmp_path):
    gallery.write(tmp_path, "depth", results(tmp_path), PICTURES)
    return tmp_path


def test_what_is_written_is_read(folder):
    assert gallery.read(folder, "depth", results(folder)) == PICTURES
    assert {path.name for path in folder.iterdir()} == {
        "depth_map.png",
        "depth_map_dark.png",
        "depth_bars.png",
        "depth_bars_dark.png",
        "depth_pictures.json",
    }


def test_there_are_none_at_first_or_of_another_experiment(folder, tmp_path):
    assert gallery.read(folder, "placement", results(folder)) is None
    assert gallery.read(folder / "nowhere", "depth", results(folder)) is None


def test_other_results_or_other_code_have_other_pictures(folder, monkeypatch):
    assert gallery.read(folder, "depth", results(folder, accuracy=0.6)) is None
    assert gallery.read(folder, "depth", results(folder, code="other")) is None
    monkeypatch.setattr(gallery.matplotlib, "__version__", "0")
    assert gallery.read(folder, "depth", results(folder)) is None


@pytest.mark.parametrize("name", ["depth_map.png", "depth_bars_dark.png", "depth_pictures.json"])
@pytest.mark.parametrize("content", [None, b"", b"x", b"{}", b"[1]", b'{"made_of": 1}'])
def test_a_file_that_is_gone_or_changed_has_them_drawn_again(folder, name, content):
    path = folder / name
    if content == path.read_bytes():
        return
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert gallery.read(folder, "depth", results(folder)) is None


def test_an_index_without_pictures_checksums_is_none(folder):
    path = folder / "depth_pictures.json"
    index = json.loads(path.read_text())
    del index["pictures"][1]["checksums"]
    path.write_text(json.dumps(index))
    assert gallery.read(folder, "depth", results(folder)) is None
