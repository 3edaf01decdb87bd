"""The patches of images under a sliding kernel, and the sum of patches over images.

Images are (N, C, H, W), C-contiguous, float32 or float64. Patches are (C, kh, kw, N, rows,
columns): as a matrix, a row for each tap of a kernel and a column for each of its positions.
Pixels outside an image are 0.
"""

import numpy as np

from npbn.engines.windows import Windows


def gather(x: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Return the patches of images.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
    rows, columns : Windows
        Of the kernel along H and W.

    Returns
    -------
    ndarray, shape (C, rows.kernel, columns.kernel, N, rows.count, columns.count), dtype of x
    """
    samples, channels = x.shape[:2]
    kernel, counts = (rows.kernel, columns.kernel), (rows.count, columns.count)
    patches = np.zeros((channels, *kernel, samples, *counts), x.dtype)
    images = x.swapaxes(0, 1)
    for i, j in np.ndindex(kernel):
        (top, down), (left, across) = rows.tap(i), columns.tap(j)
        patches[:, i, j, :, top, left] = images[:, :, down, across]
    return patches


def scatter(patches: np.ndarray, rows: Windows, columns: Windows, x: np.ndarray) -> None:
    """Add patches to the images `x`, in place, each number where :func:`gather` reads it."""
    images = x.swapaxes(0, 1)
    for i, j in np.ndindex(rows.kernel, columns.kernel):
        (top, down), (left, across) = rows.tap(i), columns.tap(j)
        images[:, :, down, across] += patches[:, i, j, :, top, left]
