"""BatchNorm's four passes, by the engine in use; :mod:`npbn.engines.numpy_.batch_norm` has them.

They are functions, not looked up in the engine, so that a compiler can recognise them inside of a
function that is :func:`npbn.engines.fused`.
"""

import numpy as np

from npbn.engines.choice import current


def moments(x: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean, rest and m2 = Σ d² of every channel."""
    return current().moments(x)


def affine(
    x: np.ndarray, mean: np.ndarray, rest: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Return d · scale + shift, of x's shape and dtype."""
    return current().affine(x, mean, rest, scale, shift)


def reduce(
    grad: np.ndarray, x: np.ndarray, mean: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ grad and Σ grad · d of every channel."""
    return current().reduce(grad, x, mean, rest)


def combine(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
) -> np.ndarray:
    """Return a · grad + b · d + c, of grad's shape and dtype."""
    return current().combine(grad, x, mean, rest, a, b, c)
