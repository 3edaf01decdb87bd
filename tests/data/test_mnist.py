"""MNIST from its files, wherever they lie, and the digits that come with the repository."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from npbn.data import MNIST, ArrayDataset, read_idx, write_idx
from npbn.errors import DataError

DIGITS = Path(__file__).parents[2] / "examples" / "data" / "mnist-5k"


def write_set(folder, prefix="train", n=4, size=(28, 28), suffix="", seed=0):
    """Write one set's two files; return the arrays in them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *size), np.uint8)
    labels = rng.integers(0, 10, n, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return images, labels


# Where and what


@pytest.mark.parametrize("layout", [".", "MNIST/raw", "raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_folder_layouts(tmp_path, layout, suffix):
    train = write_set(tmp_path / layout, "train", n=4, suffix=suffix)
    test = write_set(tmp_path / layout, "t10k", n=3, suffix=suffix, seed=1)
    for root in (tmp_path, str(tmp_path)):
        for is_train, (images, labels) in ((True, train), (False, test)):
            dataset = MNIST(root, is_train, flatten=False)
            np.testing.assert_array_equal(
                dataset.images, images.astype(np.float32) / np.float32(255)
            )
            np.testing.assert_array_equal(dataset.labels, labels)


def test_images_and_labels_come_from_one_folder(tmp_path):
    write_set(tmp_path, n=4)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    write_set(tmp_path / "raw", n=3)
    assert len(MNIST(tmp_path)) == 3


def test_one_file_may_be_plain_and_the_other_compressed(tmp_path):
    images, labels = write_set(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    np.testing.assert_array_equal(MNIST(tmp_path).labels, labels)


def test_every_byte_becomes_the_nearest_float32_to_its_255th(tmp_path):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(1, np.uint8))
    expected = (np.arange(256) / 255).astype(np.float32)
    np.testing.assert_array_equal(MNIST(tmp_path).images, expected[None], strict=True)


@pytest.mark.parametrize("size", [(28, 28), (5, 7)])
def test_shapes_and_dtypes(tmp_path, size):
    write_set(tmp_path, size=size)
    flat, square = MNIST(tmp_path), MNIST(tmp_path, flatten=False)
    assert isinstance(flat, ArrayDataset)
    assert len(flat) == len(square) == 4
    assert flat.images.shape == (4, size[0] * size[1])
    assert square.images.shape == (4, *size)
    assert flat.labels.shape == (4,)
    assert flat.images.dtype == square.images.dtype == np.float32
    assert flat.labels.dtype == np.int64
    assert flat.arrays[0] is flat.images
    assert flat.arrays[1] is flat.labels
    np.testing.assert_array_equal(flat.images, square.images.reshape(4, -1))


# Other names


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("train", [True, False])
def test_a_dot_for_a_hyphen(tmp_path, train, suffix):
    """Some copies are called train-images.idx3-ubyte."""
    start = "train" if train else "t10k"
    images, labels = write_set(tmp_path, start, suffix=suffix)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    found = MNIST(tmp_path, train)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.images.shape == (len(images), 784)


@pytest.mark.parametrize("train", [True, False])
def test_qmnist(tmp_path, train):
    """Its labels are eight numbers an image, of which the first is the class."""
    part, rng = "train" if train else "test", np.random.default_rng(0)
    labels = rng.integers(0, 10, (4, 8), np.int32)
    write_idx(tmp_path / f"qmnist-{part}-images-idx3-ubyte.gz", np.ones((4, 28, 28), np.uint8))
    write_idx(tmp_path / f"qmnist-{part}-labels-idx2-int.gz", labels)
    found = MNIST(tmp_path, train)
    np.testing.assert_array_equal(found.labels, labels[:, 0])
    assert found.labels.dtype == np.int64
    for wrong in (labels[:, :7], labels[:, 0], labels.astype(np.float32)):
        write_idx(tmp_path / f"qmnist-{part}-labels-idx2-int.gz", wrong)
        with pytest.raises(DataError, match=rf"must be int32 of shape \(N, 8\).*{wrong.dtype}"):
            MNIST(tmp_path, train)


@pytest.mark.parametrize("train", [True, False])
def test_emnist_has_several_splits_in_one_folder(tmp_path, train):
    part = "train" if train else "test"
    for n, split in enumerate(("letters", "digits"), 3):
        write_set(tmp_path, f"emnist-{split}-{part}", n=n, suffix=".gz")
    assert len(MNIST(tmp_path, train, split="letters")) == 3
    assert len(MNIST(tmp_path, train, split="digits")) == 4
    with pytest.raises(DataError, match=rf"emnist-balanced-{part}-images-idx3-ubyte"):
        MNIST(tmp_path, train, split="balanced")
    with pytest.raises(DataError, match=r"looked for .*split= for EMNIST"):
        MNIST(tmp_path, train)


# What is refused


def test_missing_files(tmp_path):
    write_set(tmp_path, "train")
    with pytest.raises(DataError) as caught:
        MNIST(tmp_path, train=False)
    message = str(caught.value)
    assert "t10k-images-idx3-ubyte" in message
    assert "t10k-labels-idx1-ubyte" in message
    for folder in (tmp_path, tmp_path / "MNIST" / "raw", tmp_path / "raw"):
        assert str(folder) in message
    assert "npbn.torch_reference.download_mnist(root)" in message


def test_missing_folder_and_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(DataError, match="looked for"):
        MNIST(tmp_path / "nowhere")
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    (tmp_path / "train-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match="looked for"):
        MNIST(tmp_path)


@pytest.mark.parametrize("array", [np.zeros((4, 784), np.uint8), np.zeros((4, 28, 28), np.int32)])
def test_images_of_wrong_rank_or_dtype(tmp_path, array):
    write_set(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte", array)
    with pytest.raises(DataError, match="images must be uint8 of rank 3") as caught:
        MNIST(tmp_path)
    assert f"{array.dtype} of shape {array.shape}" in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros((4, 1), np.uint8), np.zeros(4, np.float32)])
def test_labels_of_wrong_rank_or_dtype(tmp_path, array):
    write_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", array)
    with pytest.raises(DataError, match="labels must be uint8 of rank 1"):
        MNIST(tmp_path)


def test_counts_that_differ(tmp_path):
    write_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(5, np.uint8))
    with pytest.raises(DataError, match=r"4 images in .*, but 5 labels in "):
        MNIST(tmp_path)


@pytest.mark.parametrize(("n", "size"), [(0, (28, 28)), (3, (0, 28))])
@pytest.mark.parametrize("flatten", [True, False])
def test_no_images(tmp_path, n, size, flatten):
    write_set(tmp_path, n=n, size=size)
    with pytest.raises(DataError, match="empty"):
        MNIST(tmp_path, flatten=flatten)


def test_damaged_file(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"4 x 28 x 28 uint8 values, 3136 bytes.*only 3135"):
        MNIST(tmp_path)


# The digits in examples/data/mnist-5k


def test_embedded_files_are_those_of_their_readme():
    readme = (DIGITS / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"`(\S+\.gz)`.*`([0-9a-f]{64})`", readme))
    found = {path.name: path for path in DIGITS.glob("*.gz")}
    assert listed == {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in found.items()}
    assert len(listed) == 4
    for name, path in found.items():
        assert f"| `{name}` | uint8 {read_idx(path).shape} |" in readme


@pytest.mark.parametrize(("train", "per_class"), [(True, 400), (False, 100)])
def test_embedded_digits_are_balanced_and_shuffled(train, per_class):
    digits = MNIST(DIGITS, train)
    assert digits.images.shape == (10 * per_class, 784)
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert np.bincount(digits.labels).tolist() == [per_class] * 10
    for tenth in np.split(digits.labels, 10):  # sorted labels would give one class to each
        assert len(set(tenth)) == 10


def test_embedded_training_and_test_digits_are_distinct():
    images = np.concatenate([MNIST(DIGITS, train).images for train in (True, False)])
    assert len({image.tobytes() for image in images}) == 5000


def test_embedded_digits_are_upright_and_match_their_labels():
    train, test = MNIST(DIGITS), MNIST(DIGITS, train=False)
    means = np.stack([train.images[train.labels == digit].mean(axis=0) for digit in range(10)])
    nearest = ((test.images[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == test.labels) > 0.75

    # The bar of a 7 lies in its upper half, the base of a 2 in its lower: so neither the rows are
    # upside down nor the images transposed.
    heaviest_row = means.reshape(10, 28, 28).sum(axis=2).argmax(axis=1)
    assert heaviest_row[7] < 14 < heaviest_row[2]
