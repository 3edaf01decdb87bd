"""Max pooling.

A window is a rectangle, so that its maximum is the largest of its rows' maxima. Its first maximum,
in the order in which one reads, is in the first row that has it, and the first there: the
gradient, too, is taken back along one axis after the other.
"""

from typing import NamedTuple

import numpy as np

from npbn.functional.checks import float_array
from npbn.functional.pooling_checks import along, place_windows, resized, wide
from npbn.functional.windows import Windows


class MaxPoolCache(NamedTuple):
    """What :func:`max_pool2d_backward` needs: the input, by reference, and the windows."""

    x: np.ndarray
    rows: Windows
    columns: Windows


@np.errstate(all="ignore")
def max_pool2d_forward(
    x: np.ndarray, rows: Windows, columns: Windows
) -> tuple[np.ndarray, MaxPoolCache]:
    """Return the maximum of each window, and the cache for backward.

    Padding is never the maximum; a window with NaN gives NaN, and one without any element, as
    dilation makes them in small images, −inf.

    Parameters
    ----------
    x : ndarray, shape (*, H, W)
    rows, columns : Windows
        Along H and W.

    Returns
    -------
    y : ndarray, shape (*, H_out, W_out), dtype of x
        Exact: every value is one of x's.
    cache : MaxPoolCache
    """
    # Along H first, whose inner loops are contiguous: (64, 16, 28, 28) in 0.7 of the time.
    return _maxima(_maxima(x, -2, rows), -1, columns), MaxPoolCache(x, rows, columns)


@np.errstate(all="ignore")
def max_pool2d_backward(grad_output: np.ndarray, cache: MaxPoolCache) -> np.ndarray:
    """Return the gradient of the input: each window's goes to its first maximum, row by row.

    In a window with NaN it goes to the last NaN, as in torch.

    Parameters
    ----------
    grad_output : ndarray, shape (*, H_out, W_out)
    cache : MaxPoolCache

    Returns
    -------
    grad_input : ndarray, shape (*, H, W), dtype of grad_output

    Notes
    -----
    Exact where windows do not overlap. Error bound for an element that is the maximum of m windows:
    (m − 1) eps / 2 · Σ|terms|. float16 is summed in float32, and rounded once.
    """
    x, rows, columns = cache
    row_maxima = _maxima(x, -1, columns)
    maxima = _maxima(row_maxima, -2, rows)
    has_nan = bool(np.isnan(maxima.max(initial=-np.inf)))
    grad = grad_output.astype(wide(grad_output.dtype), order="C")
    grad = _to_maxima(grad, row_maxima, maxima, -2, rows, has_nan)
    grad = _to_maxima(grad, x, row_maxima, -1, columns, has_nan)
    return grad.astype(grad_output.dtype, copy=False)


def max_pool2d(
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> np.ndarray:
    """Return the maximum of each window, for x of shape (N, C, H, W) or (C, H, W).

    Parameters
    ----------
    x : ndarray
    kernel_size, stride, padding, dilation : int or tuple of two
        For H and W; stride None is kernel_size, padding is at most half of it, and the window's
        elements are dilation apart.
    ceil_mode : bool
        Whether a last window may reach beyond the padding.

    Returns
    -------
    y : ndarray, shape (*, H_out, W_out), dtype of x
        H_out = ⌊(H + 2 · padding − dilation · (kernel_size − 1) − 1) / stride⌋ + 1, or ⌈...⌉ with
        ceil_mode.

    Raises
    ------
    ShapeError, DtypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d(np.array([[[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]]]), 2)
    array([[[8., 6.]]])
    """
    x = float_array("max_pool2d", x)
    placed = place_windows("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    return max_pool2d_forward(x, *placed)[0]


def _maxima(x: np.ndarray, axis: int, windows: Windows) -> np.ndarray:
    y = np.full(resized(x, axis, windows.count), -np.inf, x.dtype)
    for outputs, inputs in map(windows.tap, range(windows.kernel)):
        part = y[along(axis, outputs)]
        np.maximum(part, x[along(axis, inputs)], out=part)
    return y


def _to_maxima(
    grad: np.ndarray, x: np.ndarray, maxima: np.ndarray, axis: int, windows: Windows, has_nan: bool
) -> np.ndarray:
    """Take the gradient of the maxima along an axis back to x; `grad` is used up."""
    grad_x = np.zeros(x.shape, grad.dtype)
    # As integers: a product with 0 or 1 then keeps or drops any gradient, infinite or NaN too.
    left = grad.view(f"i{grad.itemsize}")
    apart = windows.stride >= windows.extent
    last = windows.kernel - 1
    for i in range(windows.kernel):
        outputs, inputs = (along(axis, part) for part in windows.tap(i))
        share = left[outputs]
        if i < last or has_nan:  # else what is left is the last one's own
            share = share * (x[inputs] == maxima[outputs])
            left[outputs] -= share
        if apart:
            grad_x[inputs] = share.view(grad.dtype)
        else:
            grad_x[inputs] += share.view(grad.dtype)
    if has_nan:  # NaN equals nothing: all that is left belongs to windows with NaN
        for i in reversed(range(windows.kernel)):
            outputs, inputs = (along(axis, part) for part in windows.tap(i))
            share = left[outputs] * np.isnan(x[inputs])
            left[outputs] -= share
            grad_x[inputs] += share.view(grad.dtype)
    return grad_x
