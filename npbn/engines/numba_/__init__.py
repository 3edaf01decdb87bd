"""The compiled engine (``pip install npbn[fast]``): chosen, never automatic.

What it does not define is the NumPy engine's.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba.extending import overload

from npbn.engines import numpy_
from npbn.engines.numba_ import batch_norm  # noqa: F401  the passes inside of compiled functions
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.ranges import channel_ranges, large
from npbn.engines.threads import share

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    return getattr(numpy_, name)


def run(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, compiled as a whole; large arrays by several threads.

    With threads it returns what the first of them does: results are written into arguments.
    """
    if large(arguments[0]):
        return share(_compiled(function), channel_ranges(arguments))[0]
    return _compiled(function)(*arguments)


@lru_cache
def _compiled(function: Callable) -> Callable:
    for name in function.__code__.co_names:
        callee = function.__globals__.get(name)
        if hasattr(callee, "fused"):  # is compiled with it
            overload(callee, strict=False)(lambda *_, inner=callee.fused: inner)
    return compiled(function)
