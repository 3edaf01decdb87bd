"""Memory layouts in which an implementation is given its arrays."""

from collections.abc import Callable

import numpy as np


def _flipped(x: np.ndarray) -> np.ndarray:
    return np.flip(np.flip(x).copy())


def _read_only(x: np.ndarray) -> np.ndarray:
    copy: np.ndarray = x.copy()
    copy.flags.writeable = False
    return copy


def _broadcast(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x[:1].copy(), x.shape)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda x: x.copy(order="C"),
    "Fortran order": lambda x: x.copy(order="F"),
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "channels last": lambda x: np.moveaxis(np.moveaxis(x, 1, -1).copy(order="C"), -1, 1),
    "negative strides": _flipped,
    "zero strides": _broadcast,  # one sample, seen N times
    "read-only": _read_only,
}
VECTOR_LAYOUTS = ("contiguous", "strided", "negative strides")


def laid_out(array: np.ndarray | None, layout: str) -> np.ndarray | None:
    """Return a copy in a layout of :data:`LAYOUTS`; None of None."""
    return None if array is None else LAYOUTS[layout](array)
