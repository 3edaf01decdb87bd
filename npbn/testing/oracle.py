"""BatchNorm in arithmetic that is exact, or nearly exact.

It is simple and independent of :mod:`npbn.functional`: it computes one channel at a time, with the
equations of the paper [1]_. float16 and float32 inputs are computed in float64
with exactly rounded sums (``math.fsum``); float64 inputs in decimal arithmetic of 60 digits,
from the standard library, means in 800, so that equal values have no variance. (NumPy's long
double is only double on some platforms.)

All inputs must be finite.

References
----------
.. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
   Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.
"""

import decimal
import math
from typing import Any, NamedTuple

import numpy as np

from npbn.testing.case import Setup, Step
from npbn.testing.convention_table import CONVENTIONS, Convention
from npbn.testing.names import RUNNING

CONTEXT = decimal.Context(prec=60, Emin=-999999, Emax=999999)
WIDE = decimal.Context(prec=800, Emin=-999999, Emax=999999)  # a float64 has up to 767 digits


class Exact(NamedTuple):
    """What a step should give, in float64 (for float64 inputs: rounded to it once).

    Attributes
    ----------
    y : ndarray, shape of x
    x_hat : ndarray, shape of x
        The normalised input, before weight and bias.
    grad_input : ndarray, shape of x, or None
    grad_weight, grad_bias : ndarray, shape (C,), or None
        None where the step goes forward alone.
    running_mean, running_var : ndarray, shape (C,), or None
        After the step.
    num_batches_tracked : int
        After the step.
    mean, var : ndarray, shape (C,)
        What normalised: the batch's, biased, or the running ones.
    """

    y: np.ndarray
    x_hat: np.ndarray
    grad_input: np.ndarray | None
    grad_weight: np.ndarray | None
    grad_bias: np.ndarray | None
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    num_batches_tracked: int
    mean: np.ndarray
    var: np.ndarray


def step(setup: Setup, step: Step, convention: Convention = CONVENTIONS["pytorch"]) -> Exact:
    """Return the exact results of one step of a BatchNorm.

    `convention` says what momentum weighs and which variance is stored.
    """
    shape = step.x.shape
    by_batch = step.training or not setup.tracks
    count = step.x.size // shape[1] if step.x.size else 0
    updates = step.training and setup.tracks
    tracked = setup.num_batches_tracked + (1 if updates else 0)
    channels: dict[str, list[Any]] = {name: [] for name in Exact._fields}
    with decimal.localcontext(CONTEXT):
        for c in range(setup.num_features):
            number = _exact_numbers(step.x.dtype)
            x = number(step.x[:, c].reshape(-1))
            eps = number(setup.eps)
            weight = number(1 if setup.weight is None else setup.weight[c])
            bias = number(0 if setup.bias is None else setup.bias[c])

            if by_batch:
                mean, var = batch_statistics(x)
            else:
                mean, var = (number(values[c]) for values in setup.statistics)
            std = (var + eps) ** number(0.5)
            x_hat = (x - mean) / std
            channels["mean"].append(mean)
            channels["var"].append(var)
            channels["x_hat"].append(x_hat)
            channels["y"].append(weight * x_hat + bias)

            if updates and count:
                if setup.momentum is None:
                    new = 1 / number(tracked)
                else:
                    new = convention.weight_of_new(number(setup.momentum))
                stored = var if convention.stores == "biased" else var * count / (count - 1)
                old_mean, old_var = (number(values[c]) for values in setup.statistics)
                channels["running_mean"].append((1 - new) * old_mean + new * mean)
                channels["running_var"].append((1 - new) * old_var + new * stored)

            if step.grad_output is not None:
                g = number(step.grad_output[:, c].reshape(-1))
                grad_bias, grad_weight = total(g), total(g * x_hat)
                grad_input = weight / std * g
                if by_batch and count:
                    grad_input = grad_input - weight / std * (
                        grad_bias / count + x_hat * (grad_weight / count)
                    )
                channels["grad_bias"].append(grad_bias)
                channels["grad_weight"].append(grad_weight)
                channels["grad_input"].append(grad_input)

        rounded: dict[str, Any] = {
            name: _rounded(name, values, shape) for name, values in channels.items()
        }
    if setup.tracks and not (updates and count):
        for name, values in zip(RUNNING, setup.statistics, strict=True):
            rounded[name] = values.astype(np.float64)
    return Exact(**{**rounded, "num_batches_tracked": tracked})


def batch_statistics(x: np.ndarray) -> tuple[Any, Any]:
    """Return the mean and the biased variance of one channel's values; (0, 0) of none."""
    if len(x) == 0:
        return 0 * total(x), 0 * total(x)
    with decimal.localcontext(WIDE):
        mean = total(x) / len(x)
    return mean, total((x - mean) ** 2) / len(x)


def total(values: np.ndarray) -> Any:
    """Return the sum: rounded once in float64, exact to 60 digits in decimal."""
    if values.dtype == object:
        return sum(values, decimal.Decimal(0))
    return math.fsum(values)


def _exact_numbers(dtype: np.dtype) -> Any:
    """Return the function that turns numbers of `dtype` into the arithmetic used for them."""
    if dtype != np.float64:
        return lambda values: np.asarray(values, np.float64)[()]

    def decimals(values: Any) -> Any:
        if np.ndim(values) == 0:
            return decimal.Decimal(float(values))
        exact = np.empty(len(values), object)
        exact[:] = [decimal.Decimal(float(value)) for value in values]
        return exact

    return decimals


def _rounded(name: str, values: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """Put the channels together in float64: (C,) numbers, or (C, n) values as (N, C, ...)."""
    if not values:
        return None
    if name in ("y", "x_hat", "grad_input"):
        rows = np.array([np.asarray(value, np.float64) for value in values])
        return np.moveaxis(rows.reshape(shape[1], shape[0], *shape[2:]), 0, 1)
    return np.array([float(value) for value in values])
