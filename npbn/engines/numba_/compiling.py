"""How functions are compiled: without the GIL, and stored on disk where that is possible."""

import hashlib
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
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
        kept: Any = numba.njit(cache=True, **options)(function)
        files = kept._cache._cache_file
        # numba checks only the file of the function, not those of the functions that it calls,
        # which are compiled into it.
        files._source_stamp = _sources()
        # numba counts the files of a function, and processes that compile it at the same time for
        # different dtypes give theirs the same number: later ones would load the wrong code.
        name = files._data_name_pattern.format
        files._data_name = lambda _: name(number=uuid.uuid4().int)
    except (RuntimeError, AttributeError):  # no folder to write to, or another version of numba
        return cast(F, numba.njit(**options)(function))
    return cast(F, kept)


@lru_cache
def _sources() -> str:
    """Return a digest of all files with functions that are compiled."""
    package = Path(__file__).parents[2]
    files = [file for part in ("engines", "functional") for file in (package / part).rglob("*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def any_order(function: F) -> F:
    """Compile a function whose sums may be taken in any order."""
    return compiled(function, REASSOCIATE)
