"""``npbn predict`` and images of every kind: wrong, hostile, of other shapes and dtypes."""

import gzip
import io
import os

import numpy as np
import pytest
from cli.test_cli import refused, run

import npbn
from npbn.data import write_idx


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the file of a network, net.npz, and three images, images.npy."""
    npbn.save(npbn.MLP(12, 5, 4, rng=np.random.default_rng(1)).eval(), tmp_path / "net.npz")
    np.save(tmp_path / "images.npy", np.ones((3, 3, 4), np.float32))
    return tmp_path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


IMAGES = npy(np.ones((3, 3, 4), np.float32))
WRONG = {
    "empty": b"",
    "cut in the magic": IMAGES[:4],
    "cut in the header": IMAGES[:40],
    "cut in the data": IMAGES[:-1],
    "longer": IMAGES + b"\0",
    "junk": b"junk" * 100,
    "junk behind the magic": IMAGES[:8] + b"\xff" * 200,
    "another version": IMAGES[:6] + b"\x09\0" + IMAGES[8:],
    "objects": npy(np.array([[None, {}]])),
    "words": npy(np.array([["a", "b"]])),
    "records": npy(np.ones((2, 2), "f4,f4")),
    "dates": npy(np.zeros((2, 2), "M8[s]")),
    "complex": npy(np.ones((2, 12), complex)),
    "one number": npy(np.float32(1)),
    "a vector": npy(np.ones(12, np.float32)),
    "another size": npy(np.ones((3, 3, 5), np.float32)),
    "a promise": IMAGES.replace(b"(3, 3, 4)", b"(3, 9**9)"),
    "a huge shape": IMAGES.replace(b"(3, 3, 4), }", b"(3, 400000000), }"),
    "a network": npy(np.ones(1))[:0] + b"PK\3\4" + bytes(100),
    "cut gzip": gzip.compress(b"\0\0\x08\3" + bytes(12))[:-9],
}


NO_IDX = ["empty", "cut in the magic", "longer", "a network", "cut gzip"]


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        *((".npy", name) for name in WRONG),
        *(("-idx3-ubyte", name) for name in NO_IDX),
        *((".gz", name) for name in NO_IDX),
    ],
)
def test_images_that_are_none(name, suffix, folder, capsys):
    path = folder / f"x{suffix}"
    path.write_bytes(WRONG[name])
    refused(capsys, "predict", folder / "net.npz", path)


@pytest.mark.parametrize("length", range(0, len(IMAGES), 17))
def test_images_cut_anywhere(length, folder, capsys):
    (folder / "x.npy").write_bytes(IMAGES[:length])
    assert "x.npy" in refused(capsys, "predict", folder / "net.npz", folder / "x.npy")


def test_images_that_are_no_file(folder, capsys):
    for path in (folder, folder / "missing.npy"):
        assert path.name in refused(capsys, "predict", folder / "net.npz", path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.npy")
        assert "pipe" in refused(capsys, "predict", folder / "net.npz", folder / "pipe.npy")


def test_no_images_are_no_lines(folder, capsys):
    np.save(folder / "none.npy", np.ones((0, 3, 4), np.float32))
    write_idx(folder / "none-idx3-ubyte", np.ones((0, 3, 4), np.uint8))
    for name in ("none.npy", "none-idx3-ubyte"):
        assert run(capsys, "predict", folder / "net.npz", folder / name) == []


def test_a_network_of_statistics_alone_predicts_in_their_dtype(folder, capsys):
    """Its dtype was read from its parameters, of which it has none."""
    net = npbn.Sequential(npbn.BatchNorm1d(1, affine=False, dtype=np.float64)).eval()
    net[0].running_mean[...] = 1e8
    npbn.save(net, folder / "bn.npz")
    np.save(folder / "x.npy", np.array([[1e8 + 0.5]]))
    (line,) = run(capsys, "predict", folder / "bn.npz", folder / "x.npy", "--logits")
    assert float(line) == net.predict(np.array([[1e8 + 0.5]])).item()
    assert abs(float(line) - 0.5) < 1e-5


@pytest.mark.parametrize("first", [
    lambda: npbn.MaxPool2d(1), lambda: npbn.AvgPool2d(1), lambda: npbn.BatchNorm2d(1),
    lambda: npbn.Flatten(), lambda: npbn.Sequential(npbn.ReLU(), npbn.Conv2d(1, 1, 1)),
])  # fmt: skip
def test_images_have_the_shape_that_the_first_layer_takes(first, folder, capsys):
    """Of networks that begin with pooling the images were laid out for the Linear behind it."""
    net = npbn.Sequential(first(), npbn.Flatten(), npbn.Linear(12, 2)).eval()
    npbn.save(net, folder / "x.npz")
    lines = run(capsys, "predict", folder / "x.npz", folder / "images.npy", "--logits")
    expected = net.predict(np.load(folder / "images.npy")[:, None])
    found = [list(map(float, line.split(","))) for line in lines]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
