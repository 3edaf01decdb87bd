"""The engines: the loops over large arrays, once in NumPy and once compiled.

- :mod:`npbn.engines.numpy_`, the default, defines every function that an engine has. Read it.
- :mod:`npbn.engines.numba_` compiles those that cost a training step (``pip install npbn[fast]``).
  A function that it does not define is NumPy's.

Their functions take arrays that have been checked, C-contiguous and float32 or float64. What one
engine has computed in a forward pass the other can take in the backward pass.
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
