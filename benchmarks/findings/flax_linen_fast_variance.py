"""flax.linen's variance, E[x²] - E[x]² by default, has no digit left at a mean of 1e4."""

import jax.numpy as jnp
import numpy as np
from flax import linen

x = np.random.default_rng(0).normal(1e4, 1, (64, 256)).astype(np.float32)
exact = (x - x.mean(0, dtype=np.float64)) / np.sqrt(x.var(0, dtype=np.float64) + 1e-5)
for fast in (True, False):
    norm = linen.BatchNorm(use_running_average=False, use_fast_variance=fast)
    stats = {"mean": jnp.zeros(256), "var": jnp.ones(256)}
    params = {"scale": jnp.ones(256), "bias": jnp.zeros(256)}
    y, _ = norm.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
    error = np.abs(np.asarray(y, np.float64) - exact).max()
    print(f"use_fast_variance={fast}: the output is off by {error:.2g}")
    if fast:
        print("confirmed" if error > 1 else "refuted")
