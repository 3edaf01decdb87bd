"""The maximum of each window of images (P, H, W), and its gradient.

Images are C-contiguous, float32 or float64. The loop is over the taps, for all windows at once.
"""

from itertools import product
from typing import Any

import numpy as np

from npbn.engines.windows import Windows

Index = tuple[Any, ...]


def max_pool(x: np.ndarray, rows: Windows, columns: Windows) -> np.ndarray:
    """Return the maximum of each window: NaN if it has one, −inf if it has no elements.

    Parameters
    ----------
    x : ndarray, shape (P, H, W)
    rows, columns : Windows
        Along H and W.

    Returns
    -------
    ndarray, shape (P, rows.count, columns.count), dtype of x
    """
    y = np.full((len(x), rows.count, columns.count), -np.inf, x.dtype)
    for outputs, inputs in _taps(rows, columns):
        np.maximum(y[outputs], x[inputs], out=y[outputs])
    return y


def max_pool_backward(
    grad: np.ndarray, x: np.ndarray, rows: Windows, columns: Windows
) -> np.ndarray:
    """Return the gradient of x: a window's is added to its first maximum, or else its last NaN.

    Parameters
    ----------
    grad : ndarray, shape (P, rows.count, columns.count)
    x : ndarray, shape (P, H, W)
    rows, columns : Windows

    Returns
    -------
    ndarray, shape (P, H, W), dtype of grad
    """
    maxima = max_pool(x, rows, columns)
    grad_x = np.zeros(x.shape, grad.dtype)
    # As integers: a product with 0 or 1 keeps or drops any gradient, infinite or NaN too.
    left = grad.view(f"i{grad.itemsize}").copy()

    def give(outputs: Index, inputs: Index, chosen: np.ndarray) -> None:
        share = left[outputs] * chosen
        left[outputs] -= share
        grad_x[inputs] += share.view(grad.dtype)

    taps = _taps(rows, columns)
    for outputs, inputs in taps:
        give(outputs, inputs, x[inputs] == maxima[outputs])
    if np.isnan(maxima).any():  # NaN equals nothing: only such windows have a gradient left
        for outputs, inputs in reversed(taps):
            give(outputs, inputs, np.isnan(x[inputs]))
    return grad_x


def _taps(rows: Windows, columns: Windows) -> list[tuple[Index, Index]]:
    """Return for each tap, in order, the windows with it inside the image, and its positions."""
    down, across = ([axis.tap(i) for i in range(axis.kernel)] for axis in (rows, columns))
    return [((..., r[0], c[0]), (..., r[1], c[1])) for r, c in product(down, across)]
