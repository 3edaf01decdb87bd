"""Functions that are compiled as a whole: :func:`npbn.engines.fused`."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba.extending import overload

from npbn.engines import numpy_
from npbn.engines.numba_.compiling import compiled
from npbn.engines.threads import large


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, compiled as a whole.

    With several threads, functions of large arrays are not compiled, only the passes that they
    call, each of which runs in the threads.
    """
    x = arguments[0]
    if x.ndim > 1 and large(x):
        return numpy_.run(function, *arguments)
    return _compiled(function)(*arguments)


@lru_cache
def _compiled(function: Any) -> Callable[..., Any]:
    for name in function.__code__.co_names:
        callee = function.__globals__.get(name)
        if hasattr(callee, "fused"):  # it is compiled too
            overload(callee, strict=False)(lambda *_, inner=callee.fused: inner)
    whole: Callable[..., Any] = compiled(function)
    return whole
