"""The default engine, in NumPy: it defines every function of an engine."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.numpy_.activation import relu_backward, relu_forward
from npbn.engines.numpy_.batch_norm import affine, combine, moments, reduce
from npbn.engines.numpy_.cross_entropy import cross_entropy_backward, cross_entropy_forward
from npbn.engines.numpy_.max_pooling import max_pool, max_pool_backward
from npbn.engines.numpy_.patches import gather, scatter
from npbn.engines.numpy_.sgd import sgd

__all__ = [
    "affine",
    "combine",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "gather",
    "max_pool",
    "max_pool_backward",
    "moments",
    "reduce",
    "relu_backward",
    "relu_forward",
    "run",
    "scatter",
    "sgd",
]


@np.errstate(all="ignore")
def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``; another engine compiles the function."""
    return function(*arguments)
