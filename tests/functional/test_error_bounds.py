"""The error bounds that the docstrings of linear and the losses state."""

import decimal
from decimal import Decimal

import numpy as np
import pytest
from helpers import assert_within, quantum, rngs
from hypothesis import given
from hypothesis import strategies as st

from npbn.functional import (
    cross_entropy_backward,
    cross_entropy_forward,
    linear_backward,
    linear_forward,
    mse_forward,
)

EPS64 = float(np.finfo(np.float64).eps)
FLOATS = pytest.mark.parametrize("dtype", [np.float16, np.float32])


@FLOATS
@given(rng=rngs(), rows=st.integers(1, 40), width=st.integers(1, 300), out=st.integers(1, 5))
def test_linear_holds_its_bound(dtype, rng, rows, width, out):
    x, weight, bias, grad = (
        rng.normal(size=shape).astype(dtype)
        for shape in [(rows, width), (out, width), (out,), (rows, out)]
    )
    wide = [np.abs(a.astype(np.float64)) for a in (x, weight, bias, grad)]
    exact = [a.astype(np.float64) for a in (x, weight, bias, grad)]
    half = float(np.finfo(dtype).eps) / 2 * (1 + 1e-2)  # and what is of second order in eps
    y, cache = linear_forward(x, weight, bias)
    bound = (width + 1) * half * (wide[0] @ wide[1].T + wide[2])
    assert_within(y, exact[0] @ exact[1].T + exact[2], bound + quantum(dtype))
    found = linear_backward(grad, cache)
    wanted = [exact[3] @ exact[1], exact[3].T @ exact[0], exact[3].sum(0)]
    terms = [wide[3] @ wide[1], wide[3].T @ wide[0], wide[3].sum(0)]
    for mine, its, magnitude, k in zip(found, wanted, terms, (out, rows, rows), strict=True):
        assert_within(mine, its, k * half * magnitude + k * quantum(dtype))


def exact_cross_entropy(logits, target, weight, smoothing):
    """Return one term and its gradient to 50 digits."""
    with decimal.localcontext(decimal.Context(prec=50)):
        z, w = ([Decimal(float(v)) for v in values] for values in (logits, weight))
        top = max(z)
        total = sum((v - top).exp() for v in z)
        minus_log_p = [total.ln() + top - v for v in z]
        p = [(v - top).exp() / total for v in z]
        s, classes = Decimal(smoothing), len(z)
        uniform = sum(a * b for a, b in zip(w, minus_log_p, strict=True)) / classes
        loss = (1 - s) * w[target] * minus_log_p[target] + s * uniform
        grad = [
            (1 - s) * w[target] * (p[j] - (j == target)) + s / classes * (p[j] * sum(w) - w[j])
            for j in range(classes)
        ]
        return float(loss), [float(g) for g in grad]


@given(
    rng=rngs(),
    classes=st.integers(1, 6),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_cross_entropy_holds_its_bound_with_smoothing_and_ignored_targets(
    rng, classes, scale, smoothing
):
    logits = rng.uniform(-scale, scale, (4, classes))
    weight, target = rng.uniform(0.5, 2, classes), rng.integers(0, classes, 4)
    target[rng.integers(4)] = -100
    losses, cache = cross_entropy_forward(logits, target, weight, -100, "none", smoothing)
    upstream = rng.normal(size=4)
    grads = cross_entropy_backward(cache, upstream)
    for i in range(4):
        if target[i] == -100:
            assert losses[i] == 0
            assert not grads[i].any()
            continue
        loss, grad = exact_cross_entropy(logits[i], int(target[i]), weight, smoothing)
        bound = EPS64 * (np.ptp(logits[i]) + classes + 4) * weight.max()
        assert abs(losses[i] - loss) <= bound
        assert_within(grads[i], np.array(grad) * upstream[i], 2 * bound * abs(upstream[i]))


@given(rng=rngs(), n=st.integers(1, 300), reduction=st.sampled_from(["mean", "sum"]))
def test_mean_squared_error_holds_its_bound(rng, n, reduction):
    x, target = (rng.normal(size=n).astype(np.float32) for _ in range(2))
    with decimal.localcontext(decimal.Context(prec=50)):
        pairs = zip(x.tolist(), target.tolist(), strict=True)
        exact = sum((Decimal(a) - Decimal(b)) ** 2 for a, b in pairs)
        exact = float(exact / n if reduction == "mean" else exact)
    assert abs(mse_forward(x, target, reduction)[0] - exact) <= (n + 4) * EPS64 / 2 * exact
