"""Arrays as a data set, and a loader that iterates over it in batches."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from collections.abc import Iterator

import numpy as np

from npbn.arguments import check_bool, check_integer
from npbn.errors import DataError, ShapeError
from npbn.rng import generator


class ArrayDataset:
    """N samples, as arrays with a first axis of length N; torch's ``TensorDataset``.

    Parameters
    ----------
    *arrays : array_like, each of shape (N, ...)
        For instance images and labels. Arrays are kept by reference, not copied.

    Attributes
    ----------
    arrays : tuple of ndarray

    Raises
    ------
    ShapeError
        If an array has no axes.
    DataError
        If there is no array, or their lengths differ.

    Examples
    --------
    >>> dataset = ArrayDataset(np.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]), np.array([7, 8, 9]))
    >>> dataset
    ArrayDataset((3, 2) float64, (3,) int64)
    >>> len(dataset)
    3
    >>> dataset[1:]
    (array([[1. , 1.5],
           [2. , 2.5]]), array([8, 9]))
    """

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = tuple(np.asarray(array) for array in arrays)
        if not self.arrays:
            raise DataError("ArrayDataset: expected at least one array, got none")
        shapes = [array.shape for array in self.arrays]
        if () in shapes:
            raise ShapeError(
                f"ArrayDataset: expected arrays with a first dimension of samples, got {shapes}"
            )
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise DataError(f"ArrayDataset: expected arrays of the same length, got {lengths}")

    def __len__(self) -> int:
        """Return N, the number of samples."""
        return len(self.arrays[0])

    def __getitem__(self, index: int | slice | np.ndarray) -> tuple[np.ndarray, ...]:
        """Return samples of each array: views for an int or a slice, else copies."""
        return tuple(array[index] for array in self.arrays)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{a.shape} {a.dtype}' for a in self.arrays)})"


class DataLoader:
    """Iterates over a data set in batches; torch's ``DataLoader`` in one process.

    Each pass yields tuples with an array of shape (batch, ...) for each array of the data set.
    These are copies that belong to the caller. One batch is copied at a time.

    Parameters
    ----------
    dataset : ArrayDataset
        With at least one sample.
    batch_size : int
        Samples in a batch. The last batch is smaller if `batch_size` does not divide N.
    shuffle : bool
        Whether each pass has a new random order.
    drop_last : bool
        Whether a smaller last batch is left out. Such a batch changes BatchNorm's running
        statistics as much as a full one does, and with one sample of shape (C,) BatchNorm cannot
        train (`BatchSizeError`).
    rng : numpy.random.Generator, optional
        Used by `shuffle`, once in each pass; by default a new ``np.random.default_rng()``.
        Generators with the same seed give the same batches.

    Attributes
    ----------
    dataset, batch_size, shuffle, drop_last, rng
        The arguments.

    Raises
    ------
    DataError
        If the data set is empty.
    ValueError
        If `batch_size` is not a positive integer, or `shuffle` or `drop_last` is not a bool.
    TypeError
        If `dataset` is not an `ArrayDataset` or `rng` not a `numpy.random.Generator`.

    Examples
    --------
    >>> loader = DataLoader(ArrayDataset(np.arange(5)), batch_size=2)
    >>> loader
    DataLoader(ArrayDataset((5,) int64), batch_size=2, shuffle=False, drop_last=False)
    >>> len(loader)
    3
    >>> for (batch,) in loader:
    ...     print(batch)
    [0 1]
    [2 3]
    [4]
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        if not isinstance(dataset, ArrayDataset):
            raise TypeError(
                f"DataLoader: dataset must be an ArrayDataset, got {type(dataset).__name__}; "
                "ArrayDataset(x, y) makes one from arrays"
            )
        if len(dataset) == 0:
            raise DataError("DataLoader: expected at least one sample, got an empty data set")
        check_integer("DataLoader", "batch_size", batch_size, least=1)
        check_bool("DataLoader", "shuffle", shuffle)
        check_bool("DataLoader", "drop_last", drop_last)
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rng = generator(rng)

    def __len__(self) -> int:
        """Return the number of batches: N / batch_size, rounded down with `drop_last`, else up."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield the batches of one pass over the data set."""
        order = self._order()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            # An index array, unlike a slice, always copies.
            yield self.dataset[self._part(order[start : start + self.batch_size])]

    def _order(self) -> np.ndarray:
        """Return the indices of all samples, in the order of one pass."""
        n = len(self.dataset)
        return self.rng.permutation(n) if self.shuffle else np.arange(n)

    def _part(self, batch: np.ndarray) -> np.ndarray:
        """Return the indices in a batch to yield: all, in one process."""
        return batch

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.dataset!r}, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, drop_last={self.drop_last})"
        )
