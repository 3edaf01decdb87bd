"""Adapters: the BatchNorms of other libraries behind the protocol of :mod:`npbn.testing`.

One file a library, named after the module that its objects come from, with ``_`` for dots:
``flax.linen`` has ``flax_linen.py``. Each has one function ``implementation(target)``, which
makes an :class:`~npbn.testing.protocol.Implementation` of a class or function of the library,
and imports the library: nothing else does.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from npbn.testing.protocol import Gradients


def adapter_of(target: object) -> ModuleType | None:
    """Return the adapter for the library that an object comes from.

    Parameters
    ----------
    target : object
        A class or a function. For a class, those that it derives from count too.

    Returns
    -------
    module or None
        None if there is no adapter.
    """
    there = {module.name for module in pkgutil.iter_modules(__path__)}
    for origin in getattr(target, "__mro__", (target,)):
        parts = str(getattr(origin, "__module__", "")).split(".")
        for length in range(len(parts), 0, -1):
            if (name := "_".join(parts[:length])) in there:
                return importlib.import_module(f"{__name__}.{name}")
    return None


def ranks_not_taken(cls: type, taken: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the capabilities rank2 to rank5 that a class of a library does not have.

    Parameters
    ----------
    cls : type
        The class, or one that derives from it.
    taken : dict of str to tuple of int
        The ranks of the library's classes by name; a class that is none of them takes all.
    """
    known = [taken[base.__name__] for base in cls.__mro__ if base.__name__ in taken]
    ranks = known[0] if known else (2, 3, 4, 5)
    return tuple(f"rank{rank}" for rank in (2, 3, 4, 5) if rank not in ranks)


def gradients_of(
    wanted: Sequence[Any], function: Callable[[list[Any]], Iterable[Any]]
) -> Gradients:
    """Return the gradients of input, weight and bias, None for one that is None.

    Parameters
    ----------
    wanted : sequence of tensor or None
        Input, weight and bias.
    function : callable
        The tensors that are present to their gradients, as arrays.
    """
    found = iter(function([tensor for tensor in wanted if tensor is not None]))
    grad_input, weight, bias = (None if tensor is None else next(found) for tensor in wanted)
    return grad_input, weight, bias
