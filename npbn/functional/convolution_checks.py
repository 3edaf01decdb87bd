"""The checks of convolution."""

import numpy as np

from npbn.engines.windows import Windows
from npbn.errors import ShapeError
from npbn.functional.checks import float_array, same_dtype, same_shape
from npbn.functional.windows import pair, windows


def check_options(
    who: str,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int] | str, tuple[int, int]]:
    """Return stride, padding and dilation as pairs ('same' as it is), or raise ValueError."""
    stride, dilation = pair(who, "stride", stride, 1), pair(who, "dilation", dilation, 1)
    if not isinstance(padding, str):
        return stride, pair(who, "padding", padding, 0), dilation
    if padding not in ("same", "valid"):
        raise ValueError(f"{who}: expected padding 'same', 'valid' or numbers, got {padding!r}")
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"{who}: expected stride 1 with padding='same', got {stride}")
    return stride, padding, dilation


def check_conv2d(
    who: str,
    x: np.ndarray,
    weight: np.ndarray,
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
    groups: int,
    bias: np.ndarray | None = None,
) -> tuple[Windows, Windows]:
    """Return the windows along H and W, or raise ShapeError or DtypeError."""
    float_array(who, x)
    channels = weight.shape[1] * groups
    if x.ndim not in (3, 4) or x.shape[-3] != channels or 0 in x.shape[-2:]:
        raise ShapeError(
            f"{who}: expected input of shape (N, {channels}, H, W) or ({channels}, H, W), "
            f"H and W of at least 1, got {x.shape}"
        )
    same_dtype(who, x, weight.dtype)
    if bias is not None:
        same_shape(who, bias, (len(weight),), "bias")
        same_dtype(who, bias, weight.dtype, "bias")
    found = []
    for axis in range(2):
        size, kernel = x.shape[axis - 2], weight.shape[axis + 2]
        if padding == "same":
            total = dilation[axis] * (kernel - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if padding == "valid" else padding[axis]
        found.append(windows(who, size, kernel, stride[axis], dilation[axis], before, after))
    return found[0], found[1]
