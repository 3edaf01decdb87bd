"""The error bound that the docstring of SGD states."""

import numpy as np
from helpers import assert_within, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn


@given(
    rng=rngs(),
    lr=st.floats(1e-3, 1),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    dampening=st.sampled_from([0.0, 0.5]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    nesterov=st.booleans(),
)
def test_a_step_of_sgd_holds_its_bound(rng, lr, momentum, dampening, weight_decay, nesterov):
    nesterov = nesterov and momentum > 0 and dampening == 0
    p = npbn.Parameter(rng.normal(size=50).astype(np.float32))
    optimizer = npbn.SGD([p], lr, momentum, dampening, weight_decay, nesterov)
    for step in range(3):
        before = p.data.astype(np.float64)
        old = optimizer.state.get(p, {}).get("momentum_buffer", np.zeros(50)).astype(np.float64)
        p.grad = rng.normal(size=50).astype(np.float32)
        g = p.grad.astype(np.float64) + weight_decay * before
        b = momentum * old + (1 - dampening if step else 1) * g if momentum else g
        wanted = before - lr * (g + momentum * b if nesterov else b)
        optimizer.step()
        parts = np.abs(p.grad.astype(np.float64)) + weight_decay * np.abs(before)
        terms = np.abs(before) + lr * (parts + 2 * momentum * np.maximum(np.abs(old), np.abs(b)))
        assert_within(p.data, wanted, 6 * float(np.finfo(np.float32).eps) * terms)
