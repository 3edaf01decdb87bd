"""Max pooling."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.engines import current
from npbn.engines.windows import Windows
from npbn.functional.checks import float_array, wide
from npbn.functional.pooling_checks import place_windows


class MaxPoolCache(NamedTuple):
    """What :func:`max_pool2d_backward` needs of the forward pass.

    Parameters
    ----------
    x : ndarray
        The input, by reference.
    rows, columns : Windows
        Along H and W.
    """

    x: np.ndarray
    rows: Windows
    columns: Windows


@np.errstate(all="ignore")
def max_pool2d_forward(
    x: np.ndarray, rows: Windows, columns: Windows
) -> tuple[np.ndarray, MaxPoolCache]:
    """Return the maximum of each window, and the cache for backward.

    Padding is never the maximum. A window with NaN gives NaN. A window without elements gives
    −inf; dilation makes such windows in small images.

    Parameters
    ----------
    x : ndarray, shape (*, H, W)
        The input.
    rows, columns : Windows
        Along H and W.

    Returns
    -------
    y : ndarray, shape (*, H_out, W_out), dtype of x
        Exact: its values are values of x.
    cache : MaxPoolCache
        What the backward function needs.
    """
    y = current().max_pool(_images(x), rows, columns)
    return y.astype(x.dtype, copy=False).reshape(*x.shape[:-2], *y.shape[1:]), MaxPoolCache(
        x, rows, columns
    )


@np.errstate(all="ignore")
def max_pool2d_backward(grad_output: np.ndarray, cache: MaxPoolCache) -> np.ndarray:
    """Return the gradient of the input.

    The gradient of a window is added to its first maximum, row by row; in a window with NaN to
    the last NaN, as in torch.

    Parameters
    ----------
    grad_output : ndarray, shape (*, H_out, W_out)
        Gradient of the loss with respect to the output.
    cache : MaxPoolCache
        The cache that the forward function returned.

    Returns
    -------
    ndarray, shape (*, H, W), dtype of grad_output
        Gradient of the loss with respect to the input.

    Notes
    -----
    Exact if windows do not overlap. Error bound for an element that is the maximum of m windows:
    (m − 1) eps / 2 · Σ|terms|. float16 is summed in float32, and rounded once.
    """
    x, rows, columns = cache
    grad_input = current().max_pool_backward(_images(grad_output), _images(x), rows, columns)
    return grad_input.astype(grad_output.dtype, copy=False).reshape(x.shape)


def _images(x: np.ndarray) -> np.ndarray:
    """Return `x` as an engine takes it: (P, H, W), C-contiguous, float32 or float64."""
    return np.ascontiguousarray(x, wide(x.dtype)).reshape(-1, *x.shape[-2:])


def max_pool2d(
    x: ArrayLike,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> np.ndarray:
    """Return the maximum of each window, with the signature of torch's function.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W), of a float dtype
        The input.
    kernel_size, stride, padding, dilation : int or tuple of two
        For H and W; stride None is kernel_size, padding is at most half of it, and the window's
        elements are dilation apart.
    ceil_mode : bool
        Whether a last window may extend beyond the padding.

    Returns
    -------
    ndarray, shape (*, H_out, W_out), dtype of x
        H_out = ⌊(H + 2 · padding − dilation · (kernel_size − 1) − 1) / stride⌋ + 1, or ⌈...⌉ with
        ceil_mode.

    Raises
    ------
    ShapeError, DtypeError
        On an input of another rank, one that is too small, or one that is not of a float dtype.
    ValueError
        On an option out of range.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d(np.array([[[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]]]), 2)
    array([[[8., 6.]]])
    """
    x = float_array("max_pool2d", x)
    placed = place_windows("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    return max_pool2d_forward(x, *placed)[0]
