"""The accuracy contract at its far end: a million values a channel, and refusals to tune."""

import numpy as np
import pytest

import npbn
from npbn.testing import Setup, Step, npbn_implementation, oracle, tolerances


@pytest.mark.parametrize("ratio", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["normal", "grid", "sorted"])
@pytest.mark.slow
def test_a_million_values_a_channel(ratio, kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_000_000, 1))
    if kind == "grid":  # equal squares round the same way, again and again
        x = np.sign(x) * 0.1
    if kind == "sorted":
        x.sort(axis=0)
    x = (x + ratio * x.std()).astype(np.float32)
    setup = Setup(
        1,
        momentum=1.0,
        weight=np.float32([1.5]),
        bias=np.float32([0.3]),
        running_mean=np.zeros(1, np.float32),
        running_var=np.ones(1, np.float32),
    )
    step = Step(x, True, rng.normal(size=x.shape).astype(np.float32))
    exact = oracle.step(setup, step)
    allowed = tolerances.contract(setup, step, exact)
    layer = npbn_implementation(npbn.BatchNorm1d).make(setup)
    found = [layer.forward(x, True), *layer.backward(step.grad_output)]
    names = ("y", "grad_input", "grad_weight", "grad_bias", "running_mean", "running_var")
    for name, array in zip(names, [*found, layer.running_mean, layer.running_var], strict=True):
        error = np.abs(array - getattr(exact, name))
        assert (error <= getattr(allowed, name)).all(), name
