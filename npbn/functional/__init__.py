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
    BatchNormCache,
    batch_norm_backward,
    batch_norm_forward,
    updated_running_statistics,
)
from npbn.functional.batch_norm_checked import batch_norm
from npbn.functional.batch_norm_shards import (
    batch_norm_backward_elemt,
    batch_norm_backward_reduce,
    batch_norm_elemt,
    batch_norm_stats,
)
from npbn.functional.convolution import (
    ConvolutionCache,
    conv2d,
    conv2d_backward,
    conv2d_forward,
)
from npbn.functional.dropout import dropout, dropout_backward, dropout_forward
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
from npbn.functional.pooling import (
    AvgPoolCache,
    MaxPoolCache,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_forward,
)
from npbn.functional.statistics import BatchStatistics, measure, merge_all

__all__ = [
    "AvgPoolCache",
    "BatchNormCache",
    "BatchStatistics",
    "ConvolutionCache",
    "CrossEntropyCache",
    "LinearCache",
    "MSECache",
    "MaxPoolCache",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_backward_elemt",
    "batch_norm_backward_reduce",
    "batch_norm_elemt",
    "batch_norm_forward",
    "batch_norm_stats",
    "conv2d",
    "conv2d_backward",
    "conv2d_forward",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout",
    "dropout_backward",
    "dropout_forward",
    "linear",
    "linear_backward",
    "linear_forward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "measure",
    "merge_all",
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
