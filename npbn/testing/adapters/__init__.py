"""Adapters: the BatchNorms of other libraries behind the protocol of :mod:`npbn.testing`.

One file a library, named after the module that its objects come from, with ``_`` for dots:
``flax.linen`` has ``flax_linen.py``. Each has one function ``implementation(target)``, which
makes an :class:`~npbn.testing.protocol.Implementation` of a class or function of the library,
and imports the library: nothing else does.
"""

import importlib
import pkgutil
from types import ModuleType


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
