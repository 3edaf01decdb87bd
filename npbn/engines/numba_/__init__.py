"""The compiled engine (``pip install npbn[fast]``): chosen, never automatic."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba.extending import overload

from npbn.engines import numpy_
from npbn.engines.numba_.batch_norm import affine, combine, moments, reduce
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.max_pooling import max_pool, max_pool_backward
from npbn.engines.numba_.patches import gather, scatter
from npbn.engines.numba_.ranges import large

__all__ = [
    "affine",
    "combine",
    "gather",
    "max_pool",
    "max_pool_backward",
    "moments",
    "reduce",
    "run",
    "scatter",
]


@lru_cache
def _compiled(function: Callable) -> Callable:
    for name in function.__code__.co_names:
        callee = function.__globals__.get(name)
        if hasattr(callee, "fused"):  # compiled with it
            overload(callee, strict=False)(lambda *_, inner=callee.fused: inner)
    return compiled(function)


def __getattr__(name: str) -> Any:
    return getattr(numpy_, name)  # what is not defined here


def run(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, compiled as a whole.

    With a large first argument it runs as Python: the passes then share their work out among the
    threads, and NumPy's memory for large results takes fewer page faults.
    """
    if large(arguments[0]):
        return numpy_.run(function, *arguments)
    return _compiled(function)(*arguments)
