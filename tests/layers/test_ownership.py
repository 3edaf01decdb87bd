"""What a call returns is the caller's, and nothing of one call is left for the next."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import assert_same_bits, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn

pytestmark = pytest.mark.usefixtures("engine")

BATCHES = st.lists(st.integers(2, 70), min_size=2, max_size=6)


class Broken(npbn.Module):
    """Identity that can be told to raise on the way forward or back."""

    fails = ""

    def _apply(self, x, predict):
        if self.fails == "forward":
            raise RuntimeError("forward")
        return x, None

    def _backward(self, grad_output, cache, input_grad):
        if self.fails == "backward":
            raise RuntimeError("backward")
        return grad_output


def network(rng):
    return npbn.Sequential(
        fc1=npbn.Linear(11, 24, bias=False, rng=rng),
        bn1=npbn.BatchNorm1d(24),
        broken=Broken(),
        relu=npbn.ReLU(),
        fc2=npbn.Linear(24, 24, rng=rng),
        bn2=npbn.BatchNorm1d(24),
        sigmoid=npbn.Sigmoid(),
        fc3=npbn.Linear(24, 3, rng=rng),
    )


def results_of_a_step(net, criterion, optimizer, rng, batch):
    """Return every array that a step hands out: outputs, gradients and the input's own."""
    dtype = net.fc1.weight.dtype
    x = rng.normal(1, 2, (batch, 11)).astype(dtype)
    optimizer.zero_grad()
    logits = net(x)
    criterion(logits, rng.integers(0, 3, batch))
    grad_logits = criterion.backward()
    grad_x = net.backward(grad_logits)
    optimizer.step()
    gradients = [parameter.grad for parameter in net.parameters()]
    return [logits, grad_logits, grad_x, net.predict(x), *gradients, *net.state_dict().values()]


@given(rng=rngs(), batches=BATCHES)
def test_results_of_a_network_stay_as_they_were_however_often_it_is_called(rng, batches):
    net, criterion = network(rng), npbn.CrossEntropyLoss()
    optimizer = npbn.SGD(net.parameters(), lr=0.1, momentum=0.9)
    kept = []
    for batch in batches:
        results = results_of_a_step(net, criterion, optimizer, rng, batch)
        kept += [(result, result.copy()) for result in results]
    for result, as_it_was in kept:
        assert_same_bits(result, as_it_was)
    outputs = [result for result, _ in kept]
    for i, first in enumerate(outputs):
        assert not any(np.shares_memory(first, second) for second in outputs[:i])


@pytest.mark.parametrize(
    "layer", [npbn.BatchNorm1d(5), npbn.Linear(5, 4), npbn.ReLU(), npbn.Sigmoid()], ids=repr
)
@given(rng=rngs(), batches=BATCHES)
def test_results_of_a_layer_stay_as_they_were_however_often_it_is_called(layer, rng, batches):
    kept = []
    for batch in batches:
        y = layer(rng.normal(size=(batch, 5)).astype(np.float32))
        grad_x = layer.backward(rng.normal(size=y.shape).astype(np.float32))
        predicted = layer.predict(rng.normal(size=(batch, 5)).astype(np.float32))
        kept += [(result, result.copy()) for result in (y, grad_x, predicted)]
        y += 1  # the caller may write into its own
        kept[-3] = (y, y.copy())
    for result, as_it_was in kept:
        assert_same_bits(result, as_it_was)


@given(rng=rngs(), batch=st.integers(1, 300))
def test_evaluation_from_eight_threads_gives_the_bits_of_one(rng, batch):
    net = network(rng)
    for _ in range(3):
        net(rng.normal(1, 2, (50, 11)).astype(np.float32))
    inputs = [rng.normal(1, 2, (batch + i, 11)).astype(np.float32) for i in range(8)]
    expected = [net.predict(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for found, y in zip(pool.map(net.predict, inputs * 4), expected * 4, strict=True):
            assert_same_bits(found, y)
        assert_same_bits(net.eval()(inputs[0]), expected[0])


@pytest.mark.parametrize("disturbance", ["batch size", "dtype", "forward", "backward"])
@given(rng=rngs(), first=st.integers(2, 70), second=st.integers(2, 70))
def test_nothing_stale_is_left_behind(disturbance, rng, first, second):
    """A step after a disturbance is, bit for bit, the step of a network without a past."""
    state, seed = network(rng).state_dict(), rng.integers(2**32)
    criterion = npbn.CrossEntropyLoss()

    def step_after(disturbed):
        net = network(np.random.default_rng(0))
        if disturbed:
            net.broken.fails = disturbance
            if disturbance == "dtype":
                net.double()
            optimizer = npbn.SGD(net.parameters(), lr=0.1)
            raises = disturbance in ("forward", "backward")
            with pytest.raises(RuntimeError, match=disturbance) if raises else nullcontext():
                results_of_a_step(net, criterion, optimizer, np.random.default_rng(1), first)
            net.broken.fails = ""
            net.float()
        net.load_state_dict(state)
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        return results_of_a_step(net, criterion, optimizer, np.random.default_rng(seed), second)

    for found, expected in zip(step_after(True), step_after(False), strict=True):
        assert_same_bits(found, expected)


@pytest.mark.slow
def test_memory_is_given_back_after_a_large_batch():
    def held_after(batches):
        """Return the bytes that are held after steps with these batches."""
        rng = np.random.default_rng(0)
        net, criterion = network(rng), npbn.CrossEntropyLoss()
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        tracemalloc.start()
        for batch in batches:
            results_of_a_step(net, criterion, optimizer, rng, batch)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return held

    held_after([9001, 64, 64])  # what is allocated once, by NumPy and for constants
    small = held_after([64, 64, 64])
    assert held_after([9000, 64, 64]) < small + 10_000  # a vector of 9000 ones is 72,000
