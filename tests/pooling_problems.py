"""Drawn poolings, by npbn and by torch."""

import numpy as np
from helpers import array, tensor
from hypothesis import strategies as st

from npbn.functional.avg_pooling import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool2d_forward,
)
from npbn.functional.max_pooling import max_pool2d, max_pool2d_backward, max_pool2d_forward
from npbn.functional.pooling_checks import adapted_size, place_windows

DTYPES = ["float16", "float32", "float64"]
CHECKED = {f.__name__: f for f in (max_pool2d, avg_pool2d, adaptive_avg_pool2d)}
LEADING = st.sampled_from([(1,), (2,), (0, 2), (1, 1), (2, 3)])


def one_or_two(values):
    """Let two equal values be given as one, as some users would."""
    return values[0] if values[0] == values[1] else values


@st.composite
def pools(draw, dilated=False):
    """Draw the shape of an input, and arguments of which every window has an element in it."""
    axes = []
    for _ in range(2):
        kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 4))
        padding = draw(st.integers(0, kernel // 2))
        dilation = draw(st.integers(1, 3)) if dilated else 1
        extent = dilation * (kernel - 1) + 1
        size = max(extent - 2 * padding, dilation) + draw(st.integers(0, 6))
        axes.append((size, kernel, stride, padding, dilation))
    sizes, kernel, stride, padding, dilation = zip(*axes, strict=True)
    options = {
        "kernel_size": one_or_two(kernel),
        "stride": draw(st.sampled_from([one_or_two(stride), None])),
        "padding": one_or_two(padding),
    }
    if dilated:
        options["dilation"] = one_or_two(dilation)
    options["ceil_mode"] = draw(st.booleans())
    if not dilated:
        options["count_include_pad"] = draw(st.booleans())
        options["divisor_override"] = draw(st.sampled_from([None, None, 3, -2]))
    return (*draw(LEADING), *sizes), options


@st.composite
def adaptive_pools(draw):
    shape = (*draw(LEADING), draw(st.integers(1, 13)), draw(st.integers(1, 13)))
    each = st.none() | st.integers(1, 15)
    return shape, {"output_size": draw(st.integers(1, 9) | st.tuples(each, each))}


def max_forward(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    placed = place_windows("", x, kernel_size, stride, padding, dilation, ceil_mode)
    return max_pool2d_forward(x, *placed)


def avg_forward(x, kernel_size, stride=None, padding=0, ceil_mode=False, *counting, **count):
    placed = place_windows("", x, kernel_size, stride, padding, 1, ceil_mode)
    return avg_pool2d_forward(x, *placed, *counting, **count)


def adaptive_forward(x, output_size):
    return adaptive_avg_pool2d_forward(x, adapted_size("", x, output_size))


PAIRS = {
    "max_pool2d": (max_forward, max_pool2d_backward),
    "avg_pool2d": (avg_forward, avg_pool2d_backward),
    "adaptive_avg_pool2d": (adaptive_forward, adaptive_avg_pool2d_backward),
}
DRAWN = {
    "max_pool2d": pools(dilated=True),
    "avg_pool2d": pools(),
    "adaptive_avg_pool2d": adaptive_pools(),
}
AVERAGES = ["avg_pool2d", "adaptive_avg_pool2d"]


def drawn(rng, shape, dtype):
    return np.asarray(rng.normal(size=shape)).astype(dtype)


def roundings(name, shape, options):
    """Bound the operations behind one number, forward or back: its sum's, and two divisions.

    A kernel of k elements sums k, and no element lies in more windows than that. An adaptive
    window is at most 1 + ⌈H / H_out⌉ long, and an element lies in at most 1 + ⌈H_out / H⌉.
    """
    if name == "avg_pool2d":
        return np.prod(np.broadcast_to(options["kernel_size"], 2)) + 2
    both = zip(shape[-2:], adapted_size("", np.empty(shape), options["output_size"]), strict=True)
    return np.prod([1 + max(-(-size // count), -(-count // size)) for size, count in both]) + 2


def both_ways(name, x, options, grad=None, rng=None):
    """Return the output, an upstream gradient and the input's."""
    forward, backward = PAIRS[name]
    y, cache = forward(x, **options)
    grad = drawn(rng, y.shape, x.dtype) if grad is None else grad
    return y, grad, backward(grad, cache)


def by_torch(name, x, grad, options, dtype=None):
    import torch  # not every Python has it: see conftest.py

    leaf = tensor(x, dtype, requires_grad=True)
    y = getattr(torch.nn.functional, name)(leaf, **options)
    y.backward(tensor(grad, dtype))
    return array(y), array(leaf.grad)
