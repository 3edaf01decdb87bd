"""Functions that are compiled as a whole: :func:`npbn.engines.fused`."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba.extending import overload

from npbn.engines.numba_ import batch_norm  # noqa: F401  defines the passes for the compiler
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.ranges import channel_ranges, large
from npbn.engines.threads import share

# A matrix of more rows is a batch; one of up to so many may be vectors, (5, C) at most.
VECTORS = 5


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, compiled as a whole, in several threads for large arrays.

    With several threads it returns the result of the first: results are written into arguments.
    """
    x = arguments[0]
    if large(x) and (x.ndim > 2 or (x.ndim == 2 and len(x) > VECTORS)):
        return share(_compiled(function), channel_ranges(arguments))[0]
    return _compiled(function)(*arguments)


@lru_cache
def _compiled(function: Any) -> Callable[..., Any]:
    for name in function.__code__.co_names:
        callee = function.__globals__.get(name)
        if hasattr(callee, "fused"):  # it is compiled too
            overload(callee, strict=False)(lambda *_, inner=callee.fused: inner)
    whole: Callable[..., Any] = compiled(function)
    return whole
