"""Stateless kernels, in pairs ``name_forward`` and ``name_backward``; the mathematics lives here.

The functions with torch's names (`batch_norm`, `linear`, `relu`, ...) check their arguments.
The kernels take theirs as checked, change none of them, and hand their cache to the caller.
"""

from npbn.functional.activation import (
    relu,
    relu_backward,
    relu_forward,
    sigmoid,
    sigmoid_backward,
    sigmoid_forward,
)
from npbn.functional.batch_norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    updated_running_statistics,
)
from npbn.functional.batch_norm_exact import BatchNormCache
from npbn.functional.convolution import (
    ConvolutionCache,
    conv2d,
    conv2d_backward,
    conv2d_forward,
)
from npbn.functional.linear import LinearCache, linear, linear_backward, linear_forward
from npbn.functional.loss import (
    CrossEntropyCache,
    MSECache,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_forward,
    mse_backward,
    mse_forward,
    mse_loss,
)
from npbn.functional.statistics import BatchStatistics, measure

__all__ = [
    "BatchNormCache",
    "BatchStatistics",
    "ConvolutionCache",
    "CrossEntropyCache",
    "LinearCache",
    "MSECache",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "conv2d",
    "conv2d_backward",
    "conv2d_forward",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "linear",
    "linear_backward",
    "linear_forward",
    "measure",
    "mse_backward",
    "mse_forward",
    "mse_loss",
    "relu",
    "relu_backward",
    "relu_forward",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_forward",
    "updated_running_statistics",
]
