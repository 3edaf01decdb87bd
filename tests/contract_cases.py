"""Problems for the accuracy contract, and whether it is kept."""

import numpy as np
from helpers import assert_within, exact_statistics

import npbn
from npbn.testing import Setup, Step, npbn_implementation, oracle, tolerances

LAYERS = {2: npbn.BatchNorm1d, 3: npbn.BatchNorm1d, 4: npbn.BatchNorm2d, 5: npbn.BatchNorm3d}


@np.errstate(all="ignore")
def problem(rng, x, dtype, training=True, eps=1e-5, momentum=0.1, far_weights=True):
    """Return a setup and a step on x, everything else drawn."""
    x = x.astype(dtype)
    parameters = np.dtype(np.float64 if dtype == "float64" else np.float32)
    channels = x.shape[1]
    spread = rng.choice([1e-3, 1, 1e3], channels) if far_weights else 1.0
    mean, var = exact_statistics(x)[1:]
    largest = float(np.finfo(parameters).max)
    var = np.minimum(var / max(x.size // channels, 1), largest)
    cancels = rng.random() < 0.5  # old and new: the average of the two is nearly 0
    old = -momentum * mean / (1 - momentum) if cancels and momentum != 1 else mean
    setup = Setup(
        channels,
        eps,
        momentum,
        weight=(rng.normal(size=channels) * spread).astype(parameters),
        bias=(rng.normal(size=channels) * spread).astype(parameters),
        running_mean=(old * (1 + rng.uniform(-1e-3, 1e-3, channels))).astype(parameters),
        running_var=(var * rng.uniform(0.5, 2, channels)).clip(0, largest).astype(parameters),
        dtype=parameters,
    )
    grad = rng.normal(size=x.shape) + rng.choice([0, 3, 1e3])
    return setup, Step(x, training, grad.astype(dtype))


@np.errstate(all="ignore")
def assert_contract(setup, step):
    """Compare a forward and a backward pass with exact arithmetic, by what the contract allows."""
    exact = oracle.step(setup, step)
    allowed = tolerances.contract(setup, step, exact)
    layer = made(setup, step)
    found = [layer.forward(step.x, step.training), *layer.backward(step.grad_output)]
    found += [layer.running_mean, layer.running_var]
    for name, mine in zip(allowed._fields, found, strict=True):
        theirs, bound = getattr(exact, name), getattr(allowed, name)
        largest = np.finfo(mine.dtype)
        over = np.abs(theirs) - bound > float(largest.max) * (1 + float(largest.eps))
        held = np.abs(theirs) + bound <= float(largest.max)  # either, in between
        np.testing.assert_array_equal(mine[over], np.sign(theirs[over]) * np.inf, name)
        assert_within(mine[held], theirs[held], bound[held], name)


def made(setup, step):
    """Return a layer for the step's input."""
    return npbn_implementation(LAYERS[step.x.ndim]).make(setup)
