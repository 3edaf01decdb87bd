"""The default engine: NumPy and nothing else. It defines every function that an engine has."""

from collections.abc import Callable
from typing import Any

import numpy as np

from npbn.engines.numpy_.batch_norm import affine, combine, moments, reduce

__all__ = ["affine", "combine", "moments", "reduce", "run"]


@np.errstate(all="ignore")
def run(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, of a function that an engine may compile."""
    return function(*arguments)
