"""MNIST, and data sets in the same file format (Fashion-MNIST, KMNIST, QMNIST, EMNIST, ...)."""

import os
from collections.abc import Iterator

import numpy as np

from npbn.arguments import check_bool
from npbn.data.idx import read_idx
from npbn.data.loader import ArrayDataset
from npbn.errors import DataError


class MNIST(ArrayDataset):
    """Images and labels of MNIST, read from the files in which it is published.

    These are ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, for the test set with
    ``t10k`` in place of ``train``; with or without ``.gz``, and with a hyphen or a dot before
    ``idx``. The files of QMNIST begin with ``qmnist-`` and have ``test`` for ``t10k``; those of
    EMNIST begin with ``emnist-`` and the name of a split. They are read from the first of the
    folders `root`, `root`/MNIST/raw (torchvision's) and `root`/raw that has both files.

    Parameters
    ----------
    root : str or path-like
        The folder.
    train : bool
        True for the training set (60,000 images in the original), False for the test set (10,000).
    flatten : bool
        Whether images are vectors.
    split : str, optional
        For EMNIST, which has several in one folder: ``"digits"``, ``"letters"``, ``"balanced"``,
        ``"byclass"``, ``"bymerge"`` or ``"mnist"``. Its images are transposed in the files and are
        returned so, as by torchvision.

    Attributes
    ----------
    images : ndarray of float32, shape (N, 784), or (N, 28, 28) with ``flatten=False``
        In [0, 1]: the bytes of the file divided by 255 in float32, bit for bit those of
        torchvision's ``ToTensor``. Height and width are those in the file, 28 x 28 in MNIST.
    labels : ndarray of int64, shape (N,)
        The classes; for QMNIST the first of its eight numbers for each image.

    Raises
    ------
    DataError
        If the files are missing, damaged or empty, differ in length, or have other arrays than
        uint8 of rank 3 (images) and 1 (labels; those of QMNIST are int32 of shape (N, 8)).
    ValueError
        If `train` or `flatten` is not a bool.

    Examples
    --------
    In a clone of the project::

        train = npbn.data.MNIST("examples/data/mnist-5k")
        train.images.shape, train.labels.shape  # (4000, 784), (4000,)
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        *,
        flatten: bool = True,
        split: str | None = None,
    ) -> None:
        check_bool("MNIST", "train", train)
        check_bool("MNIST", "flatten", flatten)
        images_path, labels_path = _find(root, train, split)
        images = _read_uint8(images_path, "images", rank=3)
        labels = _read_labels(labels_path)
        if len(images) != len(labels):
            raise DataError(
                f"{len(images)} images in {images_path}, but {len(labels)} labels in {labels_path}"
            )
        if images.size == 0:
            raise DataError(f"{images_path} is empty: its images have the shape {images.shape}")
        if flatten:
            images = images.reshape(len(images), -1)
        self.images = images.astype(np.float32)
        self.images /= 255
        self.labels = labels.astype(np.int64)
        super().__init__(self.images, self.labels)


def _find(root: str | os.PathLike[str], train: bool, split: str | None) -> list[str]:
    """Return the paths of images and labels, in the first folder that has both."""
    folders = root, os.path.join(root, "MNIST", "raw"), os.path.join(root, "raw")
    for folder in folders:
        for names in _names(train, split):
            plain = [os.path.join(folder, name) for name in names]
            # torchvision keeps both: a file is read faster than its .gz.
            paths = [path if os.path.isfile(path) else f"{path}.gz" for path in plain]
            if all(map(os.path.isfile, paths)):
                return paths
    names = next(_names(train, split))
    raise DataError(
        f"no MNIST files: looked for {names[0]} and {names[1]}, each with or without .gz, together "
        f"in one of {', '.join(map(str, folders))}, and for QMNIST's (with split= for EMNIST's); "
        "npbn.torch_reference.download_mnist(root) fetches MNIST's"
    )


def _names(train: bool, split: str | None) -> Iterator[tuple[str, str]]:
    """Yield the possible names of the files of images and labels."""
    part = "train" if train else "test"
    start = f"emnist-{split}-{part}" if split else "train" if train else "t10k"
    for mark in "-.":
        yield f"{start}-images{mark}idx3-ubyte", f"{start}-labels{mark}idx1-ubyte"
    if split is None:
        yield f"qmnist-{part}-images-idx3-ubyte", f"qmnist-{part}-labels-idx2-int"


def _read_labels(path: str) -> np.ndarray:
    if not os.path.basename(path).startswith("qmnist-"):
        return _read_uint8(path, "labels", rank=1)
    array = read_idx(path)
    if array.ndim != 2 or array.shape[1] != 8 or array.dtype != np.int32:
        raise DataError(
            f"QMNIST's labels must be int32 of shape (N, 8), but {path} holds {array.dtype} "
            f"of shape {array.shape}"
        )
    return array[:, 0]


def _read_uint8(path: str, what: str, rank: int) -> np.ndarray:
    array = read_idx(path)
    if array.ndim != rank or array.dtype != np.uint8:
        raise DataError(
            f"{what} must be uint8 of rank {rank}, but {path} holds {array.dtype} "
            f"of shape {array.shape}"
        )
    return array
