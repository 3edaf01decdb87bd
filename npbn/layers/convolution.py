"""Conv2d: convolution of images."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn import init
from npbn.arguments import check_bool, check_integer
from npbn.functional.checks import float_dtype
from npbn.functional.convolution import ConvolutionCache, conv2d_backward, conv2d_forward
from npbn.functional.convolution_checks import check_conv2d, check_options
from npbn.functional.windows import pair
from npbn.layers.module import Module
from npbn.layers.parameter import Parameter, check_writeable
from npbn.rng import generator


class Conv2d(Module):
    """Convolves images (N, C, H, W) or (C, H, W) with kernels; torch's ``nn.Conv2d``.

    Along each axis of the image (:func:`npbn.functional.convolution.conv2d_forward` has the sum)::

        size' = floor((size + 2 padding − dilation (kernel − 1) − 1) / stride) + 1

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output, at least 1.
    kernel_size, stride : int or pair
        For height and width.
    padding : int, pair, 'valid' (none) or 'same' (the output as large as the input; stride 1)
        Zeros around the image.
    dilation : int or pair
        For height and width.
    groups : int
        The channels are split into so many groups; it divides `in_channels` and `out_channels`.
    bias : bool
        False leaves out the bias, which a BatchNorm after the layer would cancel.
    padding_mode : {'zeros'}
    dtype : {float32, float64, float16}
        Of the parameters; the input has the same.
    rng : numpy.random.Generator, optional
        Source of the initial values, U(−1/√fan_in, 1/√fan_in) for both, with fan_in =
        in_channels / groups · kh · kw.

    Attributes
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        The arguments, those for height and width as pairs.
    weight : Parameter, shape (out_channels, in_channels / groups, kh, kw)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    ValueError
        If the arguments do not fit together.
    ShapeError, DtypeError
        On an input of another rank, channel count or dtype, or too small for the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv2d(1, 16, 3, padding=1, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 1, 28, 28), np.float32)).shape
    (5, 16, 28, 28)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ):
        who = "Conv2d"
        dtype = float_dtype(who, dtype)
        check_integer(who, "groups", groups, least=1)
        check_bool(who, "bias", bias)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            check_integer(who, name, channels, least=1)
            if channels % groups:
                raise ValueError(
                    f"{who}: expected {name} to be a multiple of groups, {groups}, got {channels}"
                )
        if padding_mode != "zeros":
            raise ValueError(f"{who}: expected padding_mode 'zeros', got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(who, "kernel_size", kernel_size, 1)
        self.stride, self.padding, self.dilation = check_options(who, stride, padding, dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(np.empty(shape, dtype))
        self.bias = Parameter(np.empty(out_channels, dtype)) if bias else None
        self.reset_parameters(rng)

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        """Draw new initial values, those of the weight before those of the bias.

        Parameters
        ----------
        rng : numpy.random.Generator, optional
            None is a new ``np.random.default_rng()``.

        Raises
        ------
        ValueError
            If a parameter is read-only; nothing has been changed then.
        """
        check_writeable("Conv2d.reset_parameters", self.weight, self.bias)
        rng = generator(rng)
        init.kaiming_uniform_(self.weight, math.sqrt(5), rng=rng)
        if self.bias is not None:
            bound = 1 / math.sqrt(init.calculate_fan_in(self.weight))
            init.uniform_(self.bias, -bound, bound, rng=rng)

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, ConvolutionCache]:
        x = np.asarray(x)
        who = f"Conv2d({self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size})"
        weight, bias = self.weight.data, None if self.bias is None else self.bias.data
        geometry = check_conv2d(
            who, x, weight, self.stride, self.padding, self.dilation, self.groups, bias
        )
        batch = x if x.ndim == 4 else x[None]
        y, cache = conv2d_forward(batch, weight, bias, *geometry, self.groups)
        return y if x.ndim == 4 else y[0], cache

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        batch = grad_output if grad_output.ndim == 4 else grad_output[None]
        grad_input, grad_weight, grad_bias = conv2d_backward(
            batch, cache, input_grad, self.bias is not None
        )
        self.weight.accumulate(grad_weight)
        if self.bias is not None and grad_bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_input if grad_input is None or batch is grad_output else grad_input[0]

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them.

        Returns
        -------
        str
            The text between the parentheses.
        """
        parts = [str(self.in_channels), str(self.out_channels)]
        parts += [f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        for name, usual in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)
