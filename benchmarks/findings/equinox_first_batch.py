"""equinox with mode="batch": after one batch, evaluation divides by a variance of 99 too much."""

import equinox
import jax
import numpy as np

x = np.random.default_rng(0).normal(0, 1, (1000, 1)).astype(np.float32)
norm, state = equinox.nn.make_with_state(equinox.nn.BatchNorm)(1, "batch", mode="batch")
over_batch = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
_, state = jax.vmap(norm, **over_batch)(x, state)
evaluation = equinox.nn.inference_mode(norm)
y, _ = jax.vmap(evaluation, **over_batch)(x, state)
print(f"the standard deviation of the output should be about 1, is {np.std(y):.3g}")
print("confirmed" if np.std(y) < 0.2 else "refuted")
