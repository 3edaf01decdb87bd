"""How functions are compiled: once, kept on disk where that is possible, without the GIL."""

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable)

# A product and a sum may be rounded once (fused multiply-add): not for anything that assumes away
# NaN or infinity.
CONTRACT = frozenset({"contract"})
# Sums in any order besides, for the vector units: only where float64 adds up what is computed by
# functions without it.
REASSOCIATE = CONTRACT | {"reassoc"}


def compiled(function: F, fastmath: frozenset[str] = CONTRACT) -> F:
    """Compile a function for each combination of dtypes, when it is first called with them."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder to keep it in that can be written to
        return numba.njit(**options)(function)


def any_order(function: F) -> F:
    """Compile a function whose sums may be taken in any order."""
    return compiled(function, REASSOCIATE)
