"""How functions are compiled: once, kept on disk where that is possible, without the GIL."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
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
        kept = numba.njit(cache=True, **options)(function)
        # numba compares the file that a function is in. What it calls stands in others, and has
        # been compiled into it.
        kept._cache._cache_file._source_stamp = _sources()
    except (RuntimeError, AttributeError):  # no folder that can be written to, or another numba
        return numba.njit(**options)(function)
    return kept


@lru_cache
def _sources() -> str:
    """Return a digest of all that is compiled: the engines, and the mathematics that uses them."""
    package = Path(__file__).parents[2]
    files = [file for part in ("engines", "functional") for file in (package / part).rglob("*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def any_order(function: F) -> F:
    """Compile a function whose sums may be taken in any order."""
    return compiled(function, REASSOCIATE)
