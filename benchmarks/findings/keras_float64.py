"""A layer of Keras with dtype="float64" computes in float32."""

import os

os.environ["JAX_ENABLE_X64"] = "1"  # otherwise JAX itself has no float64

import keras
import numpy as np

x = np.array([[1.0], [1.0 + 1e-9]])
right = []
for given in (x, keras.ops.convert_to_tensor(x, dtype="float64")):
    norm = keras.layers.BatchNormalization(epsilon=1e-30, dtype="float64")
    y = keras.ops.convert_to_numpy(norm(given, training=True)).ravel()
    print(f"{keras.config.backend()} backend, {type(given).__name__}: -1 and 1 are {y}, {y.dtype}")
    right.append(np.allclose(y, [-1, 1], atol=1e-3))
print("refuted" if all(right) else "confirmed")
