"""A layer of Keras with dtype="float64" computes in float32."""

import keras
import numpy as np

x = np.array([[1.0], [1.0 + 1e-9]])
norm = keras.layers.BatchNormalization(epsilon=0.0, dtype="float64")
y = keras.ops.convert_to_numpy(norm(x, training=True))
print(f"backend {keras.config.backend()}: the two values are -1 and 1, got {y.ravel()}, {y.dtype}")
print("refuted" if np.allclose(y.ravel(), [-1, 1], atol=1e-3) else "confirmed")
