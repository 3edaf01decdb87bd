"""MNIST, and every data set in its four files (Fashion-MNIST, KMNIST, QMNIST, EMNIST, ...)."""

import os
from collections.abc import Iterator

import numpy as np

from npbn.data.idx import read_idx
from npbn.data.loader import ArrayDataset
from npbn.errors import DataError


class MNIST(ArrayDataset):
    """MNIST's images and labels, read from the files in which it is published.

    These are ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, or with ``t10k`` for
    ``train`` the test set; each plain or with ``.gz``, and with a dot for the hyphen before
    ``idx`` too. QMNIST's have ``qmnist-`` before and ``test`` for ``t10k``, EMNIST's ``emnist-``
    and the name of a split. The first of the folders `root`, `root`/MNIST/raw (torchvision's
    layout) and `root`/raw that holds both files is taken.

    Parameters
    ----------
    root : str or path-like
        The folder.
    train : bool, default True
        The training set (60,000 images in the original) or the test set (10,000).
    flatten : bool, default True
        Images as vectors.
    split : str, optional
        Of EMNIST, which has several in one folder: ``"digits"``, ``"letters"``, ``"balanced"``,
        ``"byclass"``, ``"bymerge"`` or ``"mnist"``. Its images lie on their side in the files, and
        are left so, as by torchvision.

    Attributes
    ----------
    images : ndarray of float32, shape (N, 784), or (N, 28, 28) with ``flatten=False``
        In [0, 1]: the file's bytes over 255 in float32, to the bit what torchvision's
        ``ToTensor`` gives. Height and width are the file's, 28 x 28 in MNIST.
    labels : ndarray of int64, shape (N,)
        Of QMNIST's eight numbers an image the first, which is the class.

    Raises
    ------
    DataError
        If the files are missing or damaged, do not hold uint8 arrays of rank 3 (images) and
        1 (labels; QMNIST's are int32 of shape (N, 8)), differ in length or are empty.

    Examples
    --------
    In a clone of the project::

        train = npbn.data.MNIST("examples/data/mnist-5k")
        train.images.shape, train.labels.shape  # (4000, 784), (4000,)
    """

    def __init__(
        self,
        root: str | os.PathLike,
        train: bool = True,
        *,
        flatten: bool = True,
        split: str | None = None,
    ) -> None:
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


def _find(root: str | os.PathLike, train: bool, split: str | None) -> list[str]:
    """Paths of images and labels, in the first folder that holds both."""
    folders = root, os.path.join(root, "MNIST", "raw"), os.path.join(root, "raw")
    for folder in folders:
        for names in _names(train, split):
            plain = [os.path.join(folder, name) for name in names]
            # A plain file goes first: it reads faster than its .gz, and torchvision keeps both.
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
    """Yield the names that images and labels may have."""
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
