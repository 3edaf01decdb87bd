"""Whether a module computes what its class does, and in which dtype: asked before it is rewritten.

A subclass may compute anything, and a method may be replaced on one object alone.
"""

from collections.abc import Iterable

import numpy as np

from npbn.layers.module import Module

# What an evaluation goes through: of Module, and of Sequential, which asks for its layers.
_EVALUATION = ("__call__", "__getattribute__", "forward", "predict", "_apply", "_layers", "_own")
_EVALUATION += ("_submodules",)


def computes(module: object, *kinds: type[Module]) -> bool:
    """Tell whether in evaluation a module computes what one of these classes does."""
    return any(
        isinstance(module, kind) and _of_its_own(module, kind, _EVALUATION) is None
        for kind in kinds
    )


def own_behaviour(module: Module, kind: type[Module]) -> str | None:
    """Return the first method in which a module differs from a class that it is of, or None.

    A subclass may have a constructor and methods of its own, and print itself otherwise: all that
    `kind` has, in training and evaluation, has to be the same.
    """
    public = (name for name in dir(kind) if not name.startswith("__") and name != "extra_repr")
    return _of_its_own(module, kind, (*public, "__call__", "__getattribute__", "__setattr__"))


def float_dtypes(net: Module) -> list[np.dtype]:
    """Return the dtypes in which a network computes, each once: its parameters' and buffers'."""
    arrays = [*net.parameters(), *net.buffers()]
    return list(dict.fromkeys(array.dtype for array in arrays if array.dtype.kind == "f"))


def _of_its_own(module: object, kind: type[Module], names: Iterable[str]) -> str | None:
    """Return the first of these names that is not in a module what it is in a class."""
    for name in names:
        its = getattr(kind, name, None)
        replaced = callable(its) and name in vars(module)
        if replaced or getattr(type(module), name, None) is not its:
            return name
    return None
