"""Functions that are compiled as a whole: :func:`npbn.engines.fused`."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba.extending import overload

from npbn.engines.numba_ import batch_norm  # noqa: F401  the passes inside of compiled functions
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.ranges import channel_ranges, large
from npbn.engines.threads import share


def run(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, compiled as a whole; large arrays by several threads.

    With threads it returns what the first of them does: results are written into arguments.
    """
    if large(arguments[0]) and arguments[0].ndim > 1:
        return share(_compiled(function), channel_ranges(arguments))[0]
    return _compiled(function)(*arguments)


@lru_cache
def _compiled(function: Callable) -> Callable:
    for name in function.__code__.co_names:
        callee = function.__globals__.get(name)
        if hasattr(callee, "fused"):  # is compiled with it
            overload(callee, strict=False)(lambda *_, inner=callee.fused: inner)
    return compiled(function)
