"""The checks of pooling."""

import numpy as np

from npbn.arguments import is_integer
from npbn.engines.windows import Windows
from npbn.errors import ShapeError
from npbn.functional.windows import pair, windows


def check_pooling(
    who: str,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return kernel size, stride, padding and dilation for H and W, or raise ValueError."""
    kernel = pair(who, "kernel_size", kernel_size, 1)
    step = kernel if stride is None else pair(who, "stride", stride, 1)
    pad = pair(who, "padding", padding, 0)
    # Half the kernel without regard to dilation: torch documents a wider rule and applies this one.
    if any(p > k // 2 for p, k in zip(pad, kernel, strict=True)):
        raise ValueError(
            f"{who}: expected padding of at most half the kernel_size {kernel_size}, got {padding}"
        )
    return kernel, step, pad, pair(who, "dilation", dilation, 1)


def place_windows(
    who: str,
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    ceil_mode: bool,
) -> tuple[Windows, Windows]:
    """Return the windows along H and W, or raise ValueError or ShapeError."""
    arguments = check_pooling(who, kernel_size, stride, padding, dilation)
    check_rank(who, x)
    if 0 in x.shape[-3:]:
        raise ShapeError(f"{who}: expected an input that is empty in N at most, got {x.shape}")
    axes = zip(x.shape[-2:], *arguments, strict=True)
    rows, columns = (windows(who, h, k, s, d, p, p, ceil_mode) for h, k, s, p, d in axes)
    return rows, columns


def check_divisor(who: str, divisor_override: int | None) -> None:
    """Raise ValueError for a divisor that is no int or is 0; negative ones pass, as in torch."""
    if divisor_override is not None and not (is_integer(divisor_override) and divisor_override):
        raise ValueError(
            f"{who}: expected divisor_override to be None or an int other than 0, "
            f"got {divisor_override!r}"
        )


def check_output_size(
    who: str, output_size: int | tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    """Return the output's size for H and W, or raise ValueError."""
    both = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    right = len(both) == 2 and all(n is None or (is_integer(n) and n >= 0) for n in both)
    if output_size is None or not right:
        raise ValueError(
            f"{who}: expected output_size to be an int or two, each None or of at least 0, "
            f"got {output_size!r}"
        )
    return both[0], both[1]


def adapted_size(
    who: str, x: np.ndarray, output_size: int | tuple[int | None, int | None]
) -> tuple[int, int]:
    """Return the output's size for this input, or raise ValueError or ShapeError."""
    wanted = check_output_size(who, output_size)
    check_rank(who, x)
    height, width = (
        size if n is None else int(n) for n, size in zip(wanted, x.shape[-2:], strict=True)
    )
    # torch returns NaN for the one mean of an empty image, and refuses any other output size.
    if 0 in x.shape[-2:] and (height, width) != (1, 1):
        raise ShapeError(f"{who}: expected an image of at least 1 x 1, got {x.shape}")
    return height, width


def check_rank(who: str, x: np.ndarray) -> None:
    """Raise ShapeError unless `x` is a batch of images or one image."""
    if x.ndim not in (3, 4):
        raise ShapeError(f"{who}: expected input of shape (N, C, H, W) or (C, H, W), got {x.shape}")
