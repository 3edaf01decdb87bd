"""States that the tests of files save."""

import numpy as np

SUFFIXES = (".npz", ".safetensors")
# Nested, so that damage to the description shows too.
STATE = {
    "net": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)},
    "on": np.array([True, False]),
    "rest": [1, 2.5, (None, "x", 2**90)],
}
FLAT = {"w": np.arange(4, dtype=np.float16), "b": np.zeros((0, 2))}


def same(mine, its):
    return repr(mine) == repr(its)
