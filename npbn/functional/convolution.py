"""Convolution of images, as a matrix product of the kernels and the patches under them.

The engine makes the patches in blocks of at most :data:`PATCH_BYTES`, in the forward pass and
again in the backward pass: they are never all in memory.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npbn.arguments import check_integer
from npbn.engines import current
from npbn.engines.windows import Windows
from npbn.errors import ShapeError
from npbn.functional.checks import wide
from npbn.functional.convolution_checks import check_conv2d, check_options

# The largest block of patches, and of products, in bytes; one row of output may need more. Forward
# and backward of a 3x3 kernel with 512 KB, 1, 2 and 4 MB, compiled (Zen 2): at
# (64, 16, 28, 28) to 32 channels 34.5, 32.1, 31.5, 37.9 ms; at (8, 64, 56, 56) to 64 channels 96,
# 91, 93, 105 ms.
PATCH_BYTES = 1024 * 1024


class ConvolutionCache(NamedTuple):
    """What :func:`conv2d_backward` needs of the forward pass.

    Parameters
    ----------
    x, weight : ndarray
        The arguments, by reference.
    rows, columns : Windows
        Of the kernel along H and W.
    groups : int
        The number of groups.
    """

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
        The input.
    weight : ndarray, shape (O, C / groups, kh, kw), dtype of x
        The kernels.
    bias : ndarray, shape (O,), dtype of x, or None
        Added to each output channel.
    rows, columns : Windows
        Of the kernel along H and W.
    groups : int
        The output channels of a group depend on the input channels of that group only.

    Returns
    -------
    y : ndarray, shape (N, O, rows.count, columns.count), dtype of x
        The output.
    cache : ConvolutionCache
        What the backward function needs.

    Notes
    -----
    float16 is computed in float32. Error bound, for any order of summation: (K + 1) eps / 2 ·
    (Σ|w · x| + |b|) with K = C / groups · kh · kw terms, to first order in eps. N. Higham,
    "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, section 3.1.
    """
    cache = ConvolutionCache(x, weight, rows, columns, groups)
    kernels = _kernels(cache)
    shift = 0 if bias is None else bias.reshape(-1, 1, 1)
    y = np.empty((len(x), len(weight), rows.count, columns.count), x.dtype)
    for samples, strip in _blocks(cache):
        products = kernels @ _matrices(_patches(cache, samples, strip), groups)
        block = y[samples, :, strip]
        products = products.reshape(len(weight), len(block), *block.shape[2:]).swapaxes(0, 1)
        np.add(products, shift, out=block, casting="same_kind")
    return y, cache


@np.errstate(all="ignore")
def conv2d_backward(
    grad_output: np.ndarray,
    cache: ConvolutionCache,
    input_grad: bool = True,
    bias_grad: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Return the gradients of input, weight and bias.

    With the patches P of the forward pass, in which y = W P::

        grad_P      = Wᵀ grad_output, added up where patches overlap: grad_input
        grad_weight = Σ grad_output Pᵀ
        grad_bias   = Σ grad_output

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the forward pass's output
        Gradient of the loss with respect to the output.
    cache : ConvolutionCache
        The cache that the forward function returned.
    input_grad, bias_grad : bool
        Whether to compute `grad_input` and `grad_bias`; None is returned in their place otherwise.

    Returns
    -------
    grad_input : ndarray, shape of x, or None
        Gradient of the loss with respect to the input.
    grad_weight : ndarray, shape of weight
        Gradient of the loss with respect to the weight.
    grad_bias : ndarray, shape (O,), or None
        Gradient of the loss with respect to the bias.

    Notes
    -----
    Error bound: k eps / 2 · Σ|terms|, with k = O / groups · kh · kw terms for the input's gradient
    and N · rows · columns of output for the weight's.
    """
    x, weight, rows, columns, groups = cache
    kernels = _kernels(cache)
    across = kernels.swapaxes(-1, -2)
    grad_kernels = np.zeros(across.shape, across.dtype)
    grad_input = np.zeros(x.shape, kernels.dtype) if input_grad else None
    grad_bias = np.zeros(len(weight), kernels.dtype) if bias_grad else None
    for samples, strip in _blocks(cache):
        grad = grad_output[samples, :, strip].swapaxes(0, 1)
        grad = np.ascontiguousarray(grad, kernels.dtype).reshape(groups, kernels.shape[1], -1)
        patches = _patches(cache, samples, strip)
        # BLAS takes 0.7 of the time of `grad @ patches`, transposed (Zen 2).
        grad_kernels += _matrices(patches, groups) @ grad.swapaxes(-1, -2)
        if grad_bias is not None:
            grad_bias += np.add.reduce(grad, axis=-1).reshape(-1)
        if grad_input is not None:
            grad_patches = (across @ grad).reshape(patches.shape)
            current().scatter(grad_patches, rows.part(strip), columns, grad_input[samples])
    grad_weight = grad_kernels.swapaxes(-1, -2).reshape(weight.shape)
    return (
        None if grad_input is None else grad_input.astype(x.dtype, copy=False),
        grad_weight.astype(x.dtype, copy=False),
        None if grad_bias is None else grad_bias.astype(x.dtype, copy=False),
    )


def _kernels(cache: ConvolutionCache) -> np.ndarray:
    """Return the kernels as a matrix for each group, (groups, O / groups, K)."""
    outputs, *window = cache.weight.shape
    kernels = cache.weight.reshape(cache.groups, outputs // cache.groups, math.prod(window))
    return kernels.astype(wide(kernels.dtype), copy=False)


def _blocks(cache: ConvolutionCache) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of samples, each with every strip of rows of output.

    Their patches and products stay within PATCH_BYTES, if one row of one sample does.
    """
    x, weight, rows, columns, _ = cache
    taps = x.shape[1] * rows.kernel * columns.kernel
    row = max(taps, len(weight)) * columns.count * wide(x.dtype).itemsize
    for samples in _slices(len(x), PATCH_BYTES // (rows.count * row)):
        for strip in _slices(rows.count, PATCH_BYTES // ((samples.stop - samples.start) * row)):
            yield samples, strip


def _slices(count: int, step: int) -> Iterator[slice]:
    """Yield slices of length `step`, or 1 if that is 0."""
    step = max(step, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _patches(cache: ConvolutionCache, samples: slice, strip: slice) -> np.ndarray:
    """Return the patches for a strip of rows of output, (C, kh, kw, n, rows, columns)."""
    x = np.ascontiguousarray(cache.x[samples], wide(cache.x.dtype))
    return current().gather(x, cache.rows.part(strip), cache.columns)


def _matrices(patches: np.ndarray, groups: int) -> np.ndarray:
    """Return patches as a matrix for each group, (groups, K, positions)."""
    taps, positions = math.prod(patches.shape[:3]), math.prod(patches.shape[3:])
    return patches.reshape(groups, taps // groups, positions)


# -- checked --------------------------------------------------------------------------------------


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """Convolve images with kernels, with the signature of ``torch.nn.functional.conv2d``.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
        The input.
    weight : array_like, shape (O, C / groups, kh, kw), dtype of x
        The kernels.
    bias : array_like, shape (O,), dtype of x, or None
        Added to each output channel.
    stride : int or pair
        For height and width.
    padding : int, pair, 'valid' (none) or 'same' (the output as large as the input; stride 1)
        Zeros around the image.
    dilation : int or pair
        For height and width.
    groups : int
        It divides C and O.

    Returns
    -------
    ndarray, shape (N, O, H', W') or (O, H', W'), dtype of x
        The output.

    Raises
    ------
    ShapeError, DtypeError
        If the arrays do not fit together or are not of a float dtype, or if an image is smaller
        than the kernel.
    ValueError
        If an option is out of range.

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
    check_integer("conv2d", "groups", groups, least=1)
    if len(weight) % groups:
        raise ValueError(
            f"conv2d: expected groups that divide the {len(weight)} outputs, got {groups!r}"
        )
    bias = None if bias is None else np.asarray(bias)
    geometry = check_conv2d("conv2d", x, weight, stride, padding, dilation, groups, bias)
    y, _ = conv2d_forward(x if x.ndim == 4 else x[None], weight, bias, *geometry, groups)
    return y if x.ndim == 4 else y[0]
