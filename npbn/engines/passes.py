"""BatchNorm's four passes, by the engine in use; :mod:`npbn.engines.numpy_.batch_norm` has them.

A compiler recognises these functions inside a function that is :func:`npbn.engines.fused`.
"""

import numpy as np

from npbn.engines.choice import current


def moments(x: np.ndarray, out: np.ndarray) -> int:
    """Write mean, rest and m2 = Σ d² of every channel to the rows of `out`; return the count."""
    return current().moments(x, out)


def affine(
    x: np.ndarray,
    mean: np.ndarray,
    rest: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write d · scale + shift to `out`."""
    current().affine(x, mean, rest, scale, shift, out)


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
    out: np.ndarray,
) -> None:
    """Write a · grad + b · d + c to `out`."""
    current().combine(grad, x, mean, rest, a, b, c, out)
