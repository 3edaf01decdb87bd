"""Drawn convolutions, by npbn and by torch, and what rounding may do to them."""

from typing import NamedTuple

import numpy as np
from helpers import LAYOUTS, array, rngs, tensor
from hypothesis import strategies as st

from npbn.functional import conv2d_backward, conv2d_forward
from npbn.functional.convolution_checks import check_conv2d, check_options

EPS = np.finfo(np.float64).eps
NAMES = "output", "grad_input", "grad_weight", "grad_bias"
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _channels_last(x):
    return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1) if x.ndim == 4 else x


ALL_LAYOUTS = {**LAYOUTS, "channels last": _channels_last}


class Problem(NamedTuple):
    """Four arrays, and the options by torch's names."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    grad: np.ndarray
    options: dict

    def map(self, f):
        """Return the problem with `f` of each array."""
        return Problem(*(None if a is None else f(a) for a in self[:4]), self.options)

    @property
    def geometry(self):
        stride, padding, dilation = (self.options[k] for k in ("stride", "padding", "dilation"))
        options = check_options("test", stride, padding, dilation)
        return check_conv2d("test", self.x, self.weight, *options, self.options["groups"])

    def forward(self):
        groups = [n for n in [self.options["groups"]] if n != 1]  # 1 is the default
        return conv2d_forward(self.x, self.weight, self.bias, *self.geometry, *groups)

    def solve(self):
        """Return y and the three gradients."""
        y, cache = self.forward()
        return [y, *conv2d_backward(self.grad, cache)]

    def solve_by_torch(self, dtype="float64"):
        """Return torch's y and gradients; of no bias, those of a bias of zeros."""
        import torch  # not every Python has it: see conftest.py

        bias = np.zeros(len(self.weight)) if self.bias is None else self.bias
        leaves = [
            tensor(np.array(a, order="C"), dtype, requires_grad=True) for a in (self.x, self.weight)
        ]
        leaves.append(tensor(np.array(bias, order="C"), dtype, requires_grad=True))
        y = torch.nn.functional.conv2d(*leaves, **self.options)
        y.backward(tensor(np.array(self.grad, order="C"), dtype))
        return [array(y), *(array(leaf.grad) for leaf in leaves)]

    def terms(self):
        """Return Σ|terms| of y and of the gradients: the same four sums, of magnitudes."""
        return self.map(lambda a: np.abs(a.astype(np.float64))).solve_by_torch()

    def bounds(self, eps):
        """Bound y and the three gradients: a sum of k terms loses at most (k + 2) eps Σ|terms|."""
        outputs, inputs, *kernel = self.weight.shape
        taps, positions = int(np.prod(kernel)), self.grad.size // outputs
        counts = inputs * taps + 1, outputs // self.options["groups"] * taps, positions, positions
        return [(k + 2) * eps * each for k, each in zip(counts, self.terms(), strict=True)]


def pairs(least, most):
    return st.tuples(*[st.integers(least, most)] * 2)


@st.composite
def problems(draw, dtype="float64", values=None, layouts=("contiguous",), largest=4):
    """Draw a problem whose kernel fits at least once; samples may be none.

    `values` draws an array of a shape with a generator: normal ones unless given.
    """
    rng, groups = draw(rngs()), draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kernel, dilation = draw(pairs(1, largest)), draw(pairs(1, 3))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), pairs(0, 3)))
    stride = (1, 1) if padding == "same" else draw(pairs(1, 3))
    around = {"same": (99, 99), "valid": (0, 0)}.get(padding, padding)  # any image will do for same
    least = (max(dilation[i] * (kernel[i] - 1) + 1 - 2 * around[i], 1) for i in range(2))
    image = [size + draw(st.integers(0, largest)) for size in least]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for name, value in options.items():
        if isinstance(value, tuple) and value[0] == value[1]:
            options[name] = value[0]  # one number for both axes
    x = np.empty((draw(st.integers(0, largest)), groups * inputs, *image), dtype)
    weight = np.empty((groups * outputs, inputs, *kernel), dtype)
    problem = Problem(x, weight, None, None, options)
    shape = len(x), len(weight), *(axis.count for axis in problem.geometry)
    values = values or (lambda rng, shape: rng.normal(size=shape) * rng.choice([0.1, 1, 10]))
    x, weight, bias, grad = (
        np.asarray(values(rng, size)).astype(dtype)
        for size in (x.shape, weight.shape, (len(weight),), shape)
    )
    layout = ALL_LAYOUTS[draw(st.sampled_from(sorted(layouts)))]
    return Problem(x, weight, bias if draw(st.booleans()) else None, grad, options).map(layout)


def whole_numbers(rng, shape):
    return rng.integers(-3, 4, shape)
