"""Drawn arguments of a forward and a backward pass of batch norm, and the bounds that they have."""

from dataclasses import dataclass

import numpy as np
import torch
from helpers import BatchNormBounds, batch, batch_shapes, exact_statistics, rngs, tensor
from hypothesis import strategies as st

from npbn.functional import batch_norm_forward


@dataclass
class Problem:
    """The arguments of a forward pass, and the upstream gradient of a backward pass."""

    x: np.ndarray
    grad: np.ndarray
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None
    training: bool
    eps: float

    def forward(self):
        return batch_norm_forward(
            self.x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.eps,
        )

    def statistics(self):
        """Return count, mean and variance of what normalises, the batch's exact to rounding."""
        count, mean, m2 = exact_statistics(self.x)
        if self.training:
            return count, mean, m2 / count
        return count, self.running_mean, self.running_var

    def bounds(self, dtype=None):
        _, mean, var = self.statistics()
        dtype = dtype or self.x.dtype
        return BatchNormBounds(self.x, mean, var, self.weight, self.bias, self.eps, dtype)

    def torch_forward(self, dtype, momentum=0.1):
        """Return torch's leaves x, weight and bias, its running statistics, and the output."""
        leaves = [tensor(a, dtype, requires_grad=True) for a in (self.x, self.weight, self.bias)]
        running = [tensor(a, dtype) for a in (self.running_mean, self.running_var)]
        y = torch.nn.functional.batch_norm(
            leaves[0], *running, *leaves[1:], self.training, momentum, self.eps
        )
        return leaves, running, y


@st.composite
def problems(draw, dtype="float64", ranks=(2, 3, 4, 5), modes=(True, False)):
    rng, shape = draw(rngs()), draw(batch_shapes(ranks))
    training = draw(st.sampled_from(modes))
    channels = shape[1]
    has_weight, has_bias, tracks = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    tracks = tracks or not training
    return Problem(
        x=batch(rng, shape, dtype),
        grad=rng.normal(size=shape).astype(dtype),
        running_mean=rng.normal(size=channels).astype(dtype) if tracks else None,
        running_var=rng.uniform(0.1, 5, channels).astype(dtype) if tracks else None,
        weight=rng.normal(size=channels).astype(dtype) if has_weight else None,
        bias=rng.normal(size=channels).astype(dtype) if has_bias else None,
        training=training,
        eps=draw(st.sampled_from([1e-5, 1e-3, 0.5])),
    )
