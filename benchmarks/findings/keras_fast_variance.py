"""Keras computes the variance as E[x²] - E[x]² on NumPy and torch; at a mean of 1e4 it is negative.

On JAX it takes the differences from the mean.
"""

import keras
import numpy as np

x = np.random.default_rng(0).normal(1e4, 1, (64, 256)).astype(np.float32)
exact = (x - x.mean(0, dtype=np.float64)) / np.sqrt(x.var(0, dtype=np.float64) + 1e-3)
y = keras.layers.BatchNormalization()(x, training=True)
y = keras.ops.convert_to_numpy(y).astype(np.float64)
off, nan = np.nanmax(np.abs(y - exact)), np.isnan(y).sum()
backend = keras.config.backend()
print(
    f"{backend} backend: {nan} of {y.size} outputs are NaN, the others are off by up to {off:.2g}"
)
print("confirmed" if (nan > 0 and off > 1) == (backend != "jax") else "refuted")
