"""Arrays as a data set, and the loader that hands it out in batches."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from collections.abc import Iterator

import numpy as np

from npbn.errors import DataError, ShapeError
from npbn.rng import generator


class ArrayDataset:
    """Arrays whose first dimension counts the same samples, as torch's ``TensorDataset``.

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
        If an array has no first dimension.
    DataError
        If there is no array, or their lengths differ.

    Examples
    --------
    >>> dataset = ArrayDataset(np.array([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]), np.array([7, 8, 9]))
    >>> len(dataset)
    3
    >>> dataset[1:]
    (array([[1. , 1.5],
           [2. , 2.5]]), array([8, 9]))
    """

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = tuple(np.asarray(array) for array in arrays)
        if not self.arrays:
            raise DataError("a data set takes at least one array, got none")
        shapes = [array.shape for array in self.arrays]
        if () in shapes:
            raise ShapeError(f"each array takes a first dimension of samples, got shapes {shapes}")
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise DataError(f"the arrays of a data set must be equally long, got {lengths}")

    def __len__(self) -> int:
        """N, the number of samples."""
        return len(self.arrays[0])

    def __getitem__(self, index: int | slice | np.ndarray) -> tuple[np.ndarray, ...]:
        """Take sample(s) `index` of each array: views for an int or a slice, else copies."""
        return tuple(array[index] for array in self.arrays)


class DataLoader:
    """Iterate over a data set in batches, as torch's ``DataLoader``.

    Each pass yields tuples with one array of shape (batch, ...) for each array of the data set.
    They are copies and belong to the caller; no more than one batch is copied at a time.

    Parameters
    ----------
    dataset : ArrayDataset
        At least one sample.
    batch_size : int, default 1
        Samples in each batch. The last one is smaller if `batch_size` does not divide N.
    shuffle : bool, default False
        Draw a new order for each pass.
    drop_last : bool, default False
        Leave out a last batch that is smaller. Its statistics come from fewer samples, yet they
        move BatchNorm's running statistics as much as any other batch's; and from a last batch
        of one sample BatchNorm cannot train on (N, C) at all (`BatchSizeError`).
    rng : numpy.random.Generator, optional
        Where `shuffle` draws from, once per pass; by default a fresh ``np.random.default_rng()``.
        A Generator from the same seed gives the same batches.

    Raises
    ------
    DataError
        If the data set is empty.
    ValueError
        If `batch_size` is not a positive integer.
    TypeError
        If `dataset` is not an `ArrayDataset` or `rng` not a `numpy.random.Generator`.

    Examples
    --------
    >>> loader = DataLoader(ArrayDataset(np.arange(5)), batch_size=2)
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
                f"dataset must be an ArrayDataset, got {type(dataset).__name__}; "
                "ArrayDataset(x, y) makes one from arrays"
            )
        if len(dataset) == 0:
            raise DataError("the data set is empty, there is nothing to load")
        integer = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
        if not integer or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rng = generator(rng)

    def __len__(self) -> int:
        """Count the batches of one pass: N / batch_size, rounded down with `drop_last`, else up."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Make one pass over the data set."""
        order = self._order()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            # An index array, unlike a slice, always copies.
            yield self.dataset[self._part(order[start : start + self.batch_size])]

    def _order(self) -> np.ndarray:
        """Return the numbers of all samples, in the order of one pass."""
        n = len(self.dataset)
        return self.rng.permutation(n) if self.shuffle else np.arange(n)

    def _part(self, batch: np.ndarray) -> np.ndarray:
        """Return those numbers of a batch that are to be yielded: all."""
        return batch
