"""Functions without state: the mathematics.

The functions with torch's names (`batch_norm`, `linear`, `relu`, ...) check their arguments. Those
in pairs, ``name_forward`` and ``name_backward``, do not: the first returns the output and a cache,
which the second takes. They write into none of their arguments.

BatchNorm's equations are in ``help(npbn.functional.batch_norm)`` and in the file
``npbn/functional/batch_norm.py``.
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
)
from npbn.functional.batch_norm_checked import batch_norm
from npbn.functional.batch_norm_shards import (
    batch_norm_backward_elemt,
    batch_norm_backward_reduce,
    batch_norm_elemt,
    batch_norm_stats,
    updated_running_statistics,
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
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_forward,
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
from npbn.functional.squared_error import MSECache, mse_backward, mse_forward, mse_loss
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
