"""Which engine computes."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from npbn.engines.protocol import Engine

F = TypeVar("F", bound=Callable[..., Any])

MODULES = {"numpy": "npbn.engines.numpy_", "numba": "npbn.engines.numba_"}

_chosen: tuple[str, Engine] | None = None  # name and module; None before the first use


def set_engine(name: str) -> None:
    """Choose the engine that computes from now on, in all threads.

    Without a call it is the one that the environment variable ``NPBN_ENGINE`` names, or numpy.

    Parameters
    ----------
    name : {'numpy', 'numba'}
        The engine.

    Raises
    ------
    ValueError
        If there is no such engine.
    ImportError
        If the engine's package is not installed, or does not fit the NumPy that is.

    Examples
    --------
    >>> set_engine("numpy")
    >>> get_engine()
    'numpy'
    """
    global _chosen
    _chosen = name, _load("set_engine", name)


def get_engine() -> str:
    """Return the name of the engine in use.

    Returns
    -------
    str
        'numpy' or 'numba'.

    Raises
    ------
    ValueError, ImportError
        As :func:`set_engine`, for the name in ``NPBN_ENGINE``.

    Examples
    --------
    >>> get_engine() in ("numpy", "numba")
    True
    """
    return _engine()[0]


@contextmanager
def using_engine(name: str) -> Iterator[None]:
    """Use an engine inside a ``with`` block, in all threads, then the former one again.

    Parameters
    ----------
    name : {'numpy', 'numba'}
        The engine.

    Yields
    ------
    None
        Inside the block.

    Raises
    ------
    ValueError, ImportError
        As :func:`set_engine`.

    Examples
    --------
    >>> with using_engine("numpy"):
    ...     get_engine()
    'numpy'
    """
    before = get_engine()
    set_engine(name)
    try:
        yield
    finally:
        set_engine(before)


def current() -> Engine:
    """Return the engine in use."""
    return _engine()[1] if _chosen is None else _chosen[1]


def _engine() -> tuple[str, Engine]:
    """Return name and module of the engine in use; the first call reads ``NPBN_ENGINE``."""
    global _chosen
    if _chosen is None:
        name = os.environ.get("NPBN_ENGINE") or "numpy"
        _chosen = name, _load("NPBN_ENGINE", name)
    return _chosen


def _load(who: str, name: str) -> Engine:
    if name not in MODULES:
        raise ValueError(f"{who}: expected one of {', '.join(MODULES)}, got {name!r}")
    try:
        return cast(Engine, importlib.import_module(MODULES[name]))
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ImportError(
            f"{who}: the engine {name!r} cannot be loaded ({reason}); install what it needs with "
            "pip install 'npbn[fast]'"
        ) from error


def fused(function: F) -> F:
    """Let the engine compile a function of arrays and numbers as a whole.

    The NumPy engine calls the function as it is, without floating-point warnings. The function may
    contain what a compiler understands: the passes of :mod:`npbn.engines.passes`, other fused
    functions, ufuncs, ``astype``. It has to cast a float32 vector to float64 before an operation
    with a number, since NumPy would stay in float32.
    """

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return current().run(function, *arguments)

    marked: Any = call
    marked.fused = function
    return cast(F, marked)
