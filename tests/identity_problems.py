"""Passes of batch norm in float64, and the tolerances that they have on either measure."""

import math
from dataclasses import dataclass

import numpy as np
from helpers import (
    batch,
    channels_last,
    rngs,
)
from hypothesis import strategies as st

from npbn.functional import (
    batch_norm_backward,
    batch_norm_forward,
)
from npbn.testing import Setup, Step, oracle
from npbn.testing.tolerances import contract

EPS = np.finfo(np.float64).eps


@dataclass
class Problem:
    """A forward and a backward pass; by the batch where there are no running statistics."""

    x: np.ndarray
    grad: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    eps: float
    running_mean: np.ndarray | None = None
    running_var: np.ndarray | None = None

    @property
    def by_batch(self):
        return self.running_mean is None

    @property
    def arguments(self):
        return self.running_mean, self.running_var, self.weight, self.bias

    def solve(self):
        """Return y, the three gradients, and the cache."""
        y, cache = batch_norm_forward(self.x, *self.arguments, self.by_batch, self.eps)
        return y, *batch_norm_backward(self.grad, cache), cache

    def tolerances(self, measure=contract):
        """Return the tolerances of y, grad_input, grad_weight, grad_bias, and the exact x̂."""
        setup = Setup(
            self.x.shape[1],
            self.eps,
            weight=self.weight,
            bias=self.bias,
            running_mean=self.running_mean,
            running_var=self.running_var,
            dtype=self.x.dtype,
        )
        step = Step(self.x, self.by_batch, self.grad)
        exact = oracle.step(setup, step)
        return *measure(setup, step, exact)[:4], exact.x_hat


@st.composite
def problems(draw, shapes, modes=(True,)):
    rng, shape = draw(rngs()), draw(shapes)
    by_batch, has_weight, has_bias = draw(
        st.tuples(st.sampled_from(modes), st.booleans(), st.booleans())
    )
    channels = shape[1]
    return Problem(
        x=batch(rng, shape, "float64"),  # |mean| / std up to 1e4
        grad=rng.normal(size=shape) + rng.choice([0, 3]),
        weight=rng.normal(size=channels) if has_weight else None,
        bias=rng.normal(size=channels) if has_bias else None,
        eps=draw(st.sampled_from([1e-5, 1e-2, 0.5, 100.0])),
        running_mean=None if by_batch else rng.normal(size=channels),
        running_var=None if by_batch else rng.uniform(0.1, 5, channels),
    )


def sums(values):
    """Sum each channel, rounding once."""
    return np.array([math.fsum(column) for column in channels_last(values).T])
