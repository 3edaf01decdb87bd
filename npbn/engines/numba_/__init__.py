"""The compiled engine (``pip install npbn[fast]``), used only if it is chosen.

A function that it does not define is the NumPy engine's.
"""

from typing import Any

from npbn.engines import numpy_
from npbn.engines.numba_.activation import relu_backward, relu_forward
from npbn.engines.numba_.batch_norm import affine, combine, moments, reduce
from npbn.engines.numba_.cross_entropy import cross_entropy_backward, cross_entropy_forward
from npbn.engines.numba_.fusing import run
from npbn.engines.numba_.max_pooling import max_pool, max_pool_backward
from npbn.engines.numba_.patches import gather, scatter
from npbn.engines.numba_.sgd import sgd

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


def __getattr__(name: str) -> Any:
    return getattr(numpy_, name)
