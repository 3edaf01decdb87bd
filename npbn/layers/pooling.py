"""MaxPool2d, AvgPool2d and AdaptiveAvgPool2d."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.arguments import check_bool
from npbn.functional.avg_pooling import (
    AvgPoolCache,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    avg_pool2d_backward,
    avg_pool2d_forward,
)
from npbn.functional.checks import float_array
from npbn.functional.max_pooling import MaxPoolCache, max_pool2d_backward, max_pool2d_forward
from npbn.functional.pooling_checks import (
    adapted_size,
    check_divisor,
    check_output_size,
    check_pooling,
    place_windows,
)
from npbn.layers.module import Module


class MaxPool2d(Module):
    """Takes the maximum of each window of images (N, C, H, W) or (C, H, W).

    It is torch's ``nn.MaxPool2d`` without ``return_indices``.

    Parameters
    ----------
    kernel_size, stride, padding, dilation : int or tuple of two
        For H and W; see :func:`npbn.functional.max_pool2d`. Stride None is kernel_size.
    ceil_mode : bool
        Whether a last window may extend beyond the padding.

    Raises
    ------
    ValueError
        On arguments out of range or of the wrong kind.
    ShapeError, DtypeError
        On an input of another rank, one that is too small, or one that is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> pool = MaxPool2d(2)
    >>> pool(np.array([[[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]]]))
    array([[[8., 6.]]])
    >>> pool.backward(np.array([[[10.0, 20.0]]]))
    array([[[ 0.,  0.,  0.,  0.],
            [10.,  0., 20.,  0.]]])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        *,
        ceil_mode: bool = False,
    ):
        check_pooling("MaxPool2d", kernel_size, stride, padding, dilation)
        check_bool("MaxPool2d", "ceil_mode", ceil_mode)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, MaxPoolCache]:
        x = float_array("MaxPool2d", x)
        arguments = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return max_pool2d_forward(x, *place_windows("MaxPool2d", x, *arguments))

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return max_pool2d_backward(grad_output, cache) if input_grad else None

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them.

        Returns
        -------
        str
            The text between the parentheses.
        """
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Averages each window of images (N, C, H, W) or (C, H, W); torch's ``nn.AvgPool2d``.

    Parameters
    ----------
    kernel_size, stride, padding : int or tuple of two
        For H and W; see :func:`npbn.functional.avg_pool2d`. Stride None is kernel_size.
    ceil_mode : bool
        Whether a last window may extend beyond the padding.
    count_include_pad : bool
        Whether padding counts as zeros that are averaged too.
    divisor_override : int, optional
        What the sums are divided by, instead of the number of elements.

    Raises
    ------
    ValueError
        On arguments out of range or of the wrong kind.
    ShapeError, DtypeError
        On an input of another rank, one that is too small, or one that is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> pool = AvgPool2d((1, 2))
    >>> pool(np.array([[[1.0, 3.0, 5.0, 7.0]]]))
    array([[[2., 6.]]])
    >>> pool.backward(np.array([[[10.0, 20.0]]]))
    array([[[ 5.,  5., 10., 10.]]])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        check_pooling("AvgPool2d", kernel_size, stride, padding, 1)
        check_bool("AvgPool2d", "ceil_mode", ceil_mode)
        check_bool("AvgPool2d", "count_include_pad", count_include_pad)
        check_divisor("AvgPool2d", divisor_override)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, AvgPoolCache]:
        check_divisor("AvgPool2d", self.divisor_override)
        x = float_array("AvgPool2d", x)
        arguments = self.kernel_size, self.stride, self.padding, 1, self.ceil_mode
        placed = place_windows("AvgPool2d", x, *arguments)
        return avg_pool2d_forward(x, *placed, self.count_include_pad, self.divisor_override)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return avg_pool2d_backward(grad_output, cache) if input_grad else None

    def extra_repr(self) -> str:
        """Return the arguments that torch prints.

        Returns
        -------
        str
            The text between the parentheses.
        """
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Averages images (N, C, H, W) or (C, H, W) to a given size; torch's ``nn.AdaptiveAvgPool2d``.

    Parameters
    ----------
    output_size : int or tuple of two
        Height and width of the output; None is that of the input. 1 is global average pooling.

    Raises
    ------
    ValueError
        On arguments out of range or of the wrong kind.
    ShapeError, DtypeError
        On an input of another rank, one that is too small, or one that is not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> pool = AdaptiveAvgPool2d((1, 2))
    >>> pool(np.array([[[1.0, 3.0, 5.0]]]))
    array([[[2., 4.]]])
    >>> pool.backward(np.array([[[10.0, 20.0]]]))
    array([[[ 5., 15., 10.]]])
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]):
        check_output_size("AdaptiveAvgPool2d", output_size)
        self.output_size = output_size

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, AvgPoolCache]:
        x = float_array("AdaptiveAvgPool2d", x)
        size = adapted_size("AdaptiveAvgPool2d", x, self.output_size)
        return adaptive_avg_pool2d_forward(x, size)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return adaptive_avg_pool2d_backward(grad_output, cache) if input_grad else None

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them.

        Returns
        -------
        str
            The text between the parentheses.
        """
        return f"output_size={self.output_size}"
