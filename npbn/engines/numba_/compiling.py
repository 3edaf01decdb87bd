"""How functions are compiled: without the GIL, and stored on disk where that is possible."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

# A product and a sum may be rounded once (fused multiply-add). NaN and infinities are respected.
CONTRACT = frozenset({"contract"})
# Sums may also be taken in any order, for vectorisation: only for sums in float64 of terms that are
# computed by functions without this option.
REASSOCIATE = CONTRACT | {"reassoc"}


def compiled(function: F, fastmath: frozenset[str] = CONTRACT) -> F:
    """Compile a function for each combination of dtypes, at the first call with it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba finds no folder to write to
        return cast(F, numba.njit(**options)(function))


def any_order(function: F) -> F:
    """Compile a function whose sums may be taken in any order."""
    return compiled(function, REASSOCIATE)
