"""A layer of npbn and torch's with the same options, numbers and inputs, step by step."""

from typing import Any, NamedTuple

import numpy as np
import torch
from helpers import (
    BatchNormBounds,
    array,
    assert_within,
    batch,
    channel_scales,
    channels_last,
    exact_statistics,
    rngs,
    tensor,
)
from hypothesis import strategies as st

import npbn

POSITIONS = {"BatchNorm1d": (0, 1), "BatchNorm2d": (2,), "BatchNorm3d": (3,)}
BUFFERS = "running_mean", "running_var", "num_batches_tracked"
OPTIONS: dict[str, list] = {
    "eps": [1e-5, 1e-3, 0.5],
    "momentum": [0.1, None, 0.0, 0.7, 1.0],
    "affine": [True, False],
    "bias": [True, False],
    "track_running_stats": [True, False],
}


class Pair(NamedTuple):
    """What npbn returned, what torch did, and how far rounding may take them apart."""

    mine: Any
    theirs: Any
    bound: Any


class Steps(NamedTuple):
    """Drawn inputs: the layer's kind and options, and for each step a mode, x and a gradient."""

    kind: str
    options: dict
    parameters: np.ndarray  # weight, bias, and running statistics to begin with
    modes: list
    batches: list


def steps(dtype, modes=None, largest=(12, 4), **options):
    """Draw steps; `modes` and options that are given are not drawn, sizes are up to `largest`."""
    return _steps(dtype, modes, largest, options)


@st.composite
def _steps(draw, dtype, modes, largest, options):
    kind, rng = draw(st.sampled_from(sorted(POSITIONS))), draw(rngs())
    channels = draw(st.integers(1, 4))
    chosen = {name: draw(st.sampled_from(OPTIONS[name])) for name in OPTIONS} | options
    if dtype == "float16":  # torch keeps statistics in float16 where nothing is float32
        chosen |= {"affine": True, "bias": True, "track_running_stats": True}
    modes = draw(st.lists(st.booleans(), min_size=1, max_size=4)) if modes is None else modes
    scales, batches = channel_scales(rng, channels, dtype), []
    for _ in modes:
        rank = draw(st.sampled_from(POSITIONS[kind]))
        positions = [draw(st.integers(1, largest[1])) for _ in range(rank)]
        shape = (draw(st.integers(2, largest[0])), channels, *positions)
        x = batch(rng, shape, parameters_of(dtype), scales).astype(dtype)
        batches.append((x, rng.normal(size=shape).astype(dtype)))
    parameters = np.stack([*rng.normal(size=(3, channels)), rng.uniform(0.1, 5, channels)])
    return Steps(kind, chosen, parameters.astype(parameters_of(dtype)), modes, batches)


def parameters_of(dtype):
    """Return the dtype of parameters for inputs of a dtype: float32 for float16."""
    return "float32" if dtype == "float16" else dtype


def twins(drawn, dtype, torch_dtype):
    """Return both layers, with the drawn parameters and running statistics."""
    channels = drawn.parameters.shape[1]
    mine = getattr(npbn, drawn.kind)(channels, **drawn.options, dtype=parameters_of(dtype))
    names = ("weight", "bias", "running_mean", "running_var")
    for name, values in zip(names, drawn.parameters, strict=True):
        if getattr(mine, name) is not None:
            np.asarray(getattr(mine, name).data)[...] = values
    options = {name: value for name, value in drawn.options.items() if name != "bias"}
    torch_dtype = getattr(torch, torch_dtype)
    theirs = getattr(torch.nn, drawn.kind)(channels, **options, dtype=torch_dtype)
    if mine.bias is None:
        theirs.bias = None  # older releases have no keyword for it
    theirs.load_state_dict({key: torch.from_numpy(a) for key, a in mine.state_dict().items()})
    return mine, theirs


def follow(drawn, dtype, torch_dtype):
    """Take the steps; yield, after each, all results by their name as a :class:`Pair`.

    Gradients accumulate over the steps. Names that do not apply (of a layer without running
    statistics, say) are absent.
    """
    mine, theirs = twins(drawn, dtype, torch_dtype)
    seen = np.zeros(mine.num_features)  # the largest value that training has seen
    if mine.track_running_stats:
        seen = np.abs(mine.running_mean.astype(np.float64))
    weight_bound = bias_bound = 0.0
    for step, (training, (x, grad)) in enumerate(zip(drawn.modes, drawn.batches, strict=True), 1):
        mine.train(training), theirs.train(training)
        if training:
            seen = np.maximum(seen, np.abs(channels_last(x)).max(axis=0))
        bounds = bounds_of(mine, x, step, seen)
        its_dtype = dtype if dtype == "float16" else torch_dtype
        leaf = tensor(x, its_dtype, requires_grad=True)
        torch_y = theirs(leaf)
        torch_y.backward(tensor(grad, its_dtype))
        y = mine(x)
        grad_input = mine.backward(grad)
        assert y.dtype == grad_input.dtype == dtype
        weight_bound += bounds.grad_weight(grad)
        bias_bound += bounds.grad_bias(grad)
        found = {
            "output": rounded(Pair(y, array(torch_y), bounds.output())),
            "grad_input": rounded(Pair(grad_input, array(leaf.grad), bounds.grad_input(grad))),
        }
        if mine.weight is not None:
            its = array(theirs.weight.grad)
            found["weight.grad"] = Pair(mine.weight.grad, its, weight_bound)
        if mine.bias is not None:
            found["bias.grad"] = Pair(mine.bias.grad, array(theirs.bias.grad), bias_bound)
        if mine.track_running_stats:
            mean, var, batches = (array(getattr(theirs, name)) for name in BUFFERS)
            found["running_mean"] = Pair(mine.running_mean, mean, bounds.running_mean())
            found["running_var"] = Pair(mine.running_var, var, bounds.running_var(var))
            found["num_batches_tracked"] = Pair(mine.num_batches_tracked, batches, 0)
        yield training, found


def rounded(pair):
    """Add float16's last digit to the bound: both sides compute in float32 and round."""
    if pair.theirs.dtype != np.float16:
        return pair
    half = np.finfo(np.float16)
    last_digit = half.eps * np.abs(pair.theirs.astype(float)) + half.smallest_subnormal
    return pair._replace(bound=pair.bound + last_digit)


def bounds_of(layer, x, step, seen):
    """Return what rounding may do to the layer's results, on either side."""
    mean, var = layer.running_mean, layer.running_var
    if layer.training or not layer.track_running_stats:
        count, mean, m2 = exact_statistics(x)
        var = m2 / count
    vectors = (None if p is None else p.data for p in (layer.weight, layer.bias))
    dtype = parameters_of(x.dtype.name)
    return BatchNormBounds(x, mean, var, *vectors, layer.eps, dtype, 2 * step, seen)


def assert_equal(name, drawn, dtype, torch_dtype, training=None):
    """Assert that a result is torch's after each step (of one mode, if `training` is given)."""
    for mode, found in follow(drawn, dtype, torch_dtype):
        if name in found and training in (None, mode):
            pair = found[name]
            of_input = name in ("output", "grad_input")
            expected = dtype if of_input else parameters_of(dtype)
            assert pair.mine.dtype == ("int64" if name == "num_batches_tracked" else expected)
            assert_within(*pair, name)
