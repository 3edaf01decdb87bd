"""Random numbers come from a Generator that is passed, never from NumPy's global state."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

import numpy as np


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return `rng`, or a new ``np.random.default_rng()`` for None.

    Parameters
    ----------
    rng : numpy.random.Generator or None

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    TypeError
        If `rng` is anything else, such as a seed.
    """
    if rng is None:
        return np.random.default_rng()
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng: expected a numpy.random.Generator or None, got {rng!r}; "
            "np.random.default_rng(seed) makes one"
        )
    return rng
