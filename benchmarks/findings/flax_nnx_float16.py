"""flax.nnx with dtype=float16 casts its running statistics to float16 in evaluation.

A running variance of 1e5 is infinite there, and the output is 0.
"""

import jax.numpy as jnp
from flax import nnx

norm = nnx.BatchNorm(1, use_running_average=True, dtype=jnp.float16, rngs=nnx.Rngs(0))
norm.var[...] = jnp.array([1e5])
y = norm(jnp.array([[1000.0]], jnp.float16))
print(f"1000 / sqrt(1e5) is 3.162, got {float(y[0, 0]):.4g}")
print("confirmed" if abs(float(y[0, 0]) - 3.162) > 0.01 else "refuted")
