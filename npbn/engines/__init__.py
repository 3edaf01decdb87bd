"""The engines: the loops over large arrays, once in NumPy and once compiled.

- :mod:`npbn.engines.numpy_`, the default, defines every function that an engine has. Read it.
- :mod:`npbn.engines.numba_` compiles those that take most of the time of a training step
  (``pip install npbn[fast]``). A function that it does not define is NumPy's.
- :class:`npbn.engines.protocol.Engine` lists the functions.

They take arrays that have been checked, C-contiguous and float32 or float64. The caches of one
engine's forward passes fit the other's backward passes.
"""

from npbn.engines.choice import current, fused, get_engine, set_engine, using_engine
from npbn.engines.passes import affine, combine, moments, reduce

__all__ = [
    "affine",
    "combine",
    "current",
    "fused",
    "get_engine",
    "moments",
    "reduce",
    "set_engine",
    "using_engine",
]
