"""Checks whether a module computes what its class does, and in which dtype.

A subclass may compute anything, and a method may be replaced on a single object.
"""

from collections.abc import Iterable
from typing import TypeGuard, TypeVar

import numpy as np

from npbn.layers.module import Module

ModuleT = TypeVar("ModuleT", bound=Module)

# The methods of Module and Sequential that an evaluation uses.
_EVALUATION: tuple[str, ...] = ("__call__", "__getattribute__", "forward", "predict", "_apply")
_EVALUATION += ("_layers", "_own", "_submodules")


def computes(module: object, *kinds: type[ModuleT]) -> TypeGuard[ModuleT]:
    """Return whether a module computes in evaluation what one of these classes does."""
    return any(
        isinstance(module, kind) and _of_its_own(module, kind, _EVALUATION) is None
        for kind in kinds
    )


def own_behaviour(module: Module, kind: type[Module]) -> str | None:
    """Return the first method in which a module differs from a class that it is of, or None.

    A subclass may have its own constructor, `extra_repr` and further methods; those of `kind` have
    to be the same.
    """
    public = (name for name in dir(kind) if not name.startswith("__") and name != "extra_repr")
    return _of_its_own(module, kind, (*public, "__call__", "__getattribute__", "__setattr__"))


def float_dtypes(net: Module) -> list[np.dtype]:
    """Return the float dtypes of a network's parameters and buffers, each once."""
    dtypes = [*(p.dtype for p in net.parameters()), *(b.dtype for b in net.buffers())]
    return list(dict.fromkeys(dtype for dtype in dtypes if dtype.kind == "f"))


def _of_its_own(module: object, kind: type[Module], names: Iterable[str]) -> str | None:
    """Return the first of these names whose attribute differs between a module and a class."""
    for name in names:
        its = getattr(kind, name, None)
        replaced = callable(its) and name in vars(module)
        if replaced or getattr(type(module), name, None) is not its:
            return name
    return None
