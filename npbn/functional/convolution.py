"""Convolution of images: the patches that the kernel sees, times the kernels, as a matrix product.

The patches are never all in memory: :mod:`npbn.functional.patches` makes them in blocks of at most
:data:`npbn.functional.tuning.PATCH_BYTES`, in the forward pass and again in the backward pass.
"""

import math
from numbers import Integral
from typing import NamedTuple

import numpy as np

from npbn.errors import ShapeError
from npbn.functional import tuning
from npbn.functional.checks import float_array, same_dtype, same_shape
from npbn.functional.patches import Geometry, slices
from npbn.functional.windows import Windows, pair, windows


class ConvolutionCache(NamedTuple):
    """What :func:`conv2d_backward` needs: input and weight by reference, and the geometry."""

    x: np.ndarray
    weight: np.ndarray
    rows: Windows
    columns: Windows
    groups: int


@np.errstate(all="ignore")
def conv2d_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    rows: Windows,
    columns: Windows,
    groups: int = 1,
) -> tuple[np.ndarray, ConvolutionCache]:
    """Return the cross-correlation of images with kernels, and the cache for backward.

    With stride s, dilation d and padding p, for output channel o of a group whose input channels
    are c, and x = 0 outside the image::

        y[n, o, h, w] = bias[o] + Σ_c,i,j weight[o, c, i, j] · x[n, c, s h + d i − p, s w + d j − p]

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W), float16, float32 or float64
    weight : ndarray, shape (O, C / groups, kh, kw), dtype of x
    bias : ndarray, shape (O,), dtype of x, or None
    rows, columns : Windows
        Of the kernel along H and W.
    groups : int
        Output channels of group g see the input channels of group g alone.

    Returns
    -------
    y : ndarray, shape (N, O, rows.count, columns.count), dtype of x
    cache : ConvolutionCache

    Notes
    -----
    float16 is computed in float32. Error bound, in whatever order BLAS sums: (K + 1) eps / 2 ·
    (Σ|w · x| + |b|) with K = C / groups · kh · kw terms, to first order in eps. N. Higham,
    "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, section 3.1.
    """
    cache = ConvolutionCache(x, weight, rows, columns, groups)
    geometry, kernels = _geometry(cache), _kernels(cache)
    shift = None if bias is None else bias.reshape(-1, 1, 1)
    y = np.empty((len(x), len(weight), rows.count, columns.count), x.dtype)
    for samples, row_blocks in geometry.blocks(len(x)):
        padded = geometry.pad(x[samples])
        for some in row_blocks:
            products = kernels @ _matrices(geometry.patches(padded, some), groups)
            shape = (len(padded), len(weight), some.stop - some.start, geometry.width)
            block = products.reshape(shape)[..., : columns.count]
            if shift is None:
                y[samples, :, some] = block
            else:
                np.add(block, shift, out=y[samples, :, some], casting="same_kind")
    return y, cache


@np.errstate(all="ignore")
def conv2d_backward(
    grad_output: np.ndarray, cache: ConvolutionCache, input_grad: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias.

    With the patches P of the forward pass, in which y = W P::

        grad_P      = Wᵀ grad_output, added up where patches overlap: grad_input
        grad_weight = Σ grad_output Pᵀ
        grad_bias   = Σ grad_output

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the forward pass's output
    cache : ConvolutionCache
    input_grad : bool
        Whether `grad_input` is wanted; its product is skipped otherwise and None returned.

    Returns
    -------
    grad_input : ndarray, shape of x, or None
    grad_weight : ndarray, shape of weight
    grad_bias : ndarray, shape (O,)

    Notes
    -----
    Error bound: k eps / 2 · Σ|terms|, with k = O / groups · kh · kw terms for the input's gradient
    and N · rows · columns of output for the weight's.
    """
    x, weight, _, columns, groups = cache
    geometry, kernels = _geometry(cache), _kernels(cache)
    finite_weight = np.isfinite(weight).all()
    across = kernels.swapaxes(-1, -2)
    grad_kernels = np.zeros(across.shape, across.dtype)
    grad_input = np.empty(x.shape, x.dtype) if input_grad else None
    for samples, row_blocks in geometry.blocks(len(x)):
        padded, grad_padded = geometry.pad(x[samples]), geometry.pad(samples.stop - samples.start)
        # Beyond an image's right edge a gradient of 0 meets numbers that it leaves at 0 if finite.
        if not (finite_weight and np.isfinite(np.vdot(padded, padded))):
            geometry = geometry._replace(wide=False)
        for some in row_blocks:
            count = some.stop - some.start
            grad = np.zeros((len(padded), len(weight), count, geometry.width), kernels.dtype)
            grad[..., : columns.count] = grad_output[samples, :, some]
            grad = _matrices(grad, groups)
            patches = _matrices(geometry.patches(padded, some), groups)
            # This way round: BLAS takes 0.7 of the time of grad @ patches transposed.
            # One product for each sample: of small images under many channels they are the larger.
            for few in slices(len(padded), tuning.PATCH_BYTES // max(grad_kernels.nbytes, 1)):
                grad_kernels += np.add.reduce(patches[few] @ grad[few].swapaxes(-1, -2))
            if input_grad:
                _add_patches(across @ grad, geometry.patches(grad_padded, some))
        if input_grad:
            grad_input[samples] = geometry.images(grad_padded)
    grad_weight = grad_kernels.swapaxes(-1, -2).reshape(weight.shape)
    grad_bias = np.add.reduce(grad_output, axis=(0, 2, 3), dtype=np.float64)
    return grad_input, grad_weight.astype(weight.dtype), grad_bias.astype(weight.dtype)


def _geometry(cache: ConvolutionCache) -> Geometry:
    x, weight, rows, columns, _ = cache
    return Geometry(x.shape[1], len(weight), rows, columns, _dtype(x), columns.stride == 1)


def _kernels(cache: ConvolutionCache) -> np.ndarray:
    """View the kernels as a matrix for each group, (groups, O / groups, K)."""
    outputs, *window = cache.weight.shape
    kernels = cache.weight.reshape(cache.groups, outputs // cache.groups, math.prod(window))
    return kernels.astype(_dtype(kernels), copy=False)


def _dtype(x: np.ndarray) -> np.dtype:
    """Return the dtype to compute in: float16 has no fast products, and too few digits for sums."""
    return np.dtype(np.float32) if x.dtype == np.float16 else x.dtype


def _add_patches(pieces: np.ndarray, patches: np.ndarray) -> None:
    """Add matrices to the patches that they belong to, which are views and overlap."""
    pieces = pieces.reshape(patches.shape)
    for i, j in np.ndindex(patches.shape[2:4]):
        tap = patches[:, :, i, j]
        np.add(tap, pieces[:, :, i, j], out=tap)


def _matrices(images: np.ndarray, groups: int) -> np.ndarray:
    """Lay (n, channels, ..., rows, width) out as matrices, (n, groups, K, rows · width)."""
    samples, *terms, rows, width = images.shape
    return images.reshape(samples, groups, math.prod(terms) // groups, rows * width)


# -- checked --------------------------------------------------------------------------------------


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """Convolve images with kernels, with the signature of torch's function.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W) or (C, H, W)
    weight : ndarray, shape (O, C / groups, kh, kw), dtype of x
    bias : ndarray, shape (O,), dtype of x, or None
    stride, dilation : int or pair
    padding : int, pair, 'valid' (none) or 'same' (the output as large as the input; stride 1)
        Zeros around the image.
    groups : int

    Returns
    -------
    ndarray, shape (N, O, H', W') or (O, H', W'), dtype of x

    Raises
    ------
    ShapeError, DtypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> x, edge = np.array([[[1.0, 1.0, 5.0, 5.0]]]), np.array([[[[-1.0, 1.0]]]])
    >>> conv2d(x, edge)
    array([[[0., 4., 0.]]])
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ShapeError(
            "conv2d: expected weight of shape (O, C / groups, kh, kw), all of at least 1, "
            f"got {weight.shape}"
        )
    stride, padding, dilation = check_options("conv2d", stride, padding, dilation)
    if not isinstance(groups, Integral) or groups < 1 or len(weight) % groups:
        raise ValueError(
            f"conv2d: expected groups that divide the {len(weight)} outputs, got {groups!r}"
        )
    geometry = check_conv2d("conv2d", x, weight, stride, padding, dilation, groups)
    if bias is not None:
        bias = np.asarray(bias)
        same_shape("conv2d", bias, (len(weight),), "bias")
        same_dtype("conv2d", bias, weight.dtype, "bias")
    y, _ = conv2d_forward(x if x.ndim == 4 else x[None], weight, bias, *geometry, groups)
    return y if x.ndim == 4 else y[0]


def check_options(
    who: str,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int] | str, tuple[int, int]]:
    """Return stride, padding and dilation as pairs, else raise ValueError; 'same' stays."""
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
) -> tuple[Windows, Windows]:
    """Return the windows along H and W; raise ShapeError or DtypeError unless x fits the weight."""
    float_array(who, x)
    channels = weight.shape[1] * groups
    if x.ndim not in (3, 4) or x.shape[-3] != channels or 0 in x.shape[-2:]:
        raise ShapeError(
            f"{who}: expected input of shape (N, {channels}, H, W) or ({channels}, H, W), "
            f"H and W of at least 1, got {x.shape}"
        )
    same_dtype(who, x, weight.dtype)
    found = []
    for axis in range(2):
        size, kernel = x.shape[axis - 2], weight.shape[axis + 2]
        if padding == "same":
            total = dilation[axis] * (kernel - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if padding == "valid" else padding[axis]
        found.append(windows(who, size, kernel, stride[axis], dilation[axis], before, after))
    return tuple(found)
