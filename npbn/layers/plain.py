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
    return any(isinstance(module, kind) and _keeps(module, kind, _EVALUATION) for kind in kinds)


def behaves(module: object, *kinds: type[Module]) -> bool:
    """Tell whether a module does in all respects what one of these classes does.

    A subclass may then have a constructor and methods of its own, and print itself otherwise.
    """
    return any(isinstance(module, kind) and _keeps(module, kind, _methods(kind)) for kind in kinds)


def float_dtypes(net: Module) -> list[np.dtype]:
    """Return the dtypes in which a network computes, each once: its parameters' and buffers'."""
    arrays = [*net.parameters(), *(buffer for _, buffer in net.named_buffers())]
    return list(dict.fromkeys(array.dtype for array in arrays if array.dtype.kind == "f"))


def _methods(kind: type[Module]) -> Iterable[str]:
    own = (name for name in dir(kind) if not name.startswith("__") and name != "extra_repr")
    return (*own, "__call__", "__getattribute__", "__setattr__")


def _keeps(module: object, kind: type[Module], names: Iterable[str]) -> bool:
    """Tell whether these attributes of a class are the same in the module's own class."""
    for name in names:
        its = getattr(kind, name, None)
        if getattr(type(module), name, None) is not its:
            return False
        if callable(its) and name in vars(module):
            return False
    return True
