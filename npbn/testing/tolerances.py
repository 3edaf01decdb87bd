"""How far a result may be from the exact one: two measures, both derived and neither tuned.

With eps the machine epsilon of the computation's dtype, n values a channel, x̂ the exact
normalised input, std = sqrt(var + eps of BatchNorm), and "quantum" the smallest positive number
of the result's dtype, which underflow may lose.

:func:`contract` is what npbn promises, whatever the input's condition. float32:

- output: eps · max(1, |weight · x̂|, |bias|)
- gradients: 4 eps · Σ|terms|, the terms those of the sums that define them
- running statistics: 2 eps · (|1 − momentum| · |old| + |momentum| · |new|), with the batch's
  unbiased variance for the new variance and max(|mean|, std of the batch) for the new mean,
  which is a sum that may cancel; a momentum outside [0, 1] makes the average cancel too

All of it is float64 arithmetic, which loses k = (min(n, 512) + log₂ n + 8) · 2⁻⁵³ of Σ|terms| in a
sum (512 numbers one after the other, their sums in pairs, the roundings of a term): k of std in
the mean, k in the variance, and of x̂ k · (1 + |x̂|). Beside eps, 2²⁹ · 2⁻⁵³, that is nothing, and
what is left is the rounding at the end, eps / 2 of a result which is at most twice the largest
of its terms. float16 is computed as float32 and rounded once more, eps / 2 of float16.

float64 has no bits to spare: k takes the place of eps, and |x̂| + 1 that of |x̂|, for the part of k
that does not shrink with x̂. So the output may lose k · (|weight| · (|x̂| + 1) + |bias|). A gradient
of the weight loses k in its sum and k / 2 · (|x̂| + 2) in each x̂, 2 k in all; the third term of
grad_input, x̂ · grad_weight / n, loses that, and k / 2 · (|x̂| + 2) and k / 2 by its other factors,
which is below 4 k.

The range: k · |weight| counts in float32 too where |weight| exceeds 10⁶ · max(1, |bias|) and x is
nearly the mean, which :func:`contract` does not allow for. In float64 Σ (x − mean)² has to be
finite, which ends at |x − mean| of some 10¹⁵⁴ / √n; the strategies stay below both.

:func:`correct` is what a right implementation may lose in straightforward arithmetic [1]_:

- a sum of n numbers loses n eps / 2 of the sum of their magnitudes, and so the mean loses
  (n + 2) eps of M, M the largest magnitude among the inputs and the mean. Relative to the
  standard deviation that is (n + 2) eps · M / std: the *condition* κ = 1 + M / std counts the
  digits that centring cancels
- the variance loses, by its own sum and by the mean's error, (n + 2) eps · κ of itself, and
  x̂ half of that, beside the mean's error itself
- an output or gradient multiplies at most two factors x̂, each of which brings (n + 8) eps · κ
  in: k = 2 (n + 8) eps κ, times the terms

It is linear in κ but for the second-order term of the variance, (n eps M)², which is all there
is in a constant channel: an algorithm that loses κ², such as E[x²] − E[x]², does not pass.

float16 inputs are computed in float32 and rounded once: eps is float32's, and eps of float16
times the result is added. In both measures running statistics that a step leaves alone stay as
they are.

References
----------
.. [1] N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002,
   sections 1.9 (variance) and 4.2 (sums).
"""

import math
from typing import NamedTuple

import numpy as np

from npbn.testing.case import Setup, Step
from npbn.testing.oracle import Exact

# What the contract allows, in units of eps; for float64, in units of k.
OUTPUT_K, GRADIENT_K, RUNNING_K = 1, 4, 2


class Tolerance(NamedTuple):
    """The largest allowed error of each result, of the result's shape (or None, as it is)."""

    y: np.ndarray
    grad_input: np.ndarray | None
    grad_weight: np.ndarray | None
    grad_bias: np.ndarray | None
    running_mean: np.ndarray | None
    running_var: np.ndarray | None


def contract(setup: Setup, step: Step, exact: Exact) -> Tolerance:
    """Return what npbn's accuracy contract allows."""
    scale = _Scale(setup, step, exact)
    x_hat = np.abs(exact.x_hat)
    if step.x.dtype == np.float64:
        unit, floor = float64_unit(scale.count), 1
        output_terms = scale.weight * (x_hat + 1) + scale.bias
    else:
        unit, floor = scale.eps, 0
        output_terms = np.maximum(1, np.maximum(scale.weight * x_hat, scale.bias))
    grads: tuple = (None, None, None)
    if step.grad_output is not None:
        grads = tuple(GRADIENT_K * unit * terms for terms in scale.gradient_terms(floor))
    mean, var = None, None
    if setup.tracks:
        eps, kept, new = scale.averaging()
        unit_of_average = RUNNING_K * (max(unit, eps) if eps else 0)
        new_mean = np.maximum(np.abs(exact.mean), np.sqrt(np.abs(exact.var)))
        new_var = exact.var * scale.count / max(scale.count - 1, 1)
        mean = unit_of_average * (kept * np.abs(setup.running_mean) + new * new_mean)
        var = unit_of_average * (kept * np.abs(setup.running_var) + new * new_var)
    return scale.with_rounding(0.5, OUTPUT_K * unit * output_terms, *grads, mean, var)


def float64_unit(count: int) -> float:
    """Return k, what the sums of a channel of float64 may lose."""
    return (min(count, 512) + math.log2(max(count, 1)) + 8) * 2.0**-53


def correct(setup: Setup, step: Step, exact: Exact) -> Tolerance:
    """Return what a right implementation in straightforward arithmetic may lose."""
    scale = _Scale(setup, step, exact)
    unit = 2 * (scale.count + 8) * scale.eps
    kappa = 1 + scale.largest / scale.std
    y = scale.along(unit * kappa) * (scale.weight * (1 + np.abs(exact.x_hat))) + unit * scale.bias
    grads: tuple = (None, None, None)
    if step.grad_output is not None:
        to_input, to_weight, to_bias = scale.gradient_terms(floor=1)
        grads = (scale.along(unit * kappa) * to_input, unit * kappa * to_weight, unit * to_bias)
    mean, var = None, None
    if setup.tracks:
        eps, kept, new = scale.averaging()
        unit = 2 * (scale.count + 8) * eps
        lost = unit * scale.largest  # of the mean
        mean = unit * kept * np.abs(setup.running_mean) + new * lost
        batch_var = exact.var * scale.count / max(scale.count - 1, 1)
        var = unit * (kept * np.abs(setup.running_var) + new * batch_var)
        var = var + new * (np.sqrt(batch_var) * lost + lost**2)
    return scale.with_rounding(1, y, *grads, mean, var)


class _Scale:
    """The magnitudes that both measures are made of."""

    def __init__(self, setup: Setup, step: Step, exact: Exact):
        # float16 is computed in float32, and rounded at the end.
        self.eps = float(np.finfo(np.result_type(step.x.dtype, np.float32)).eps)
        self.rounding = float(np.finfo(step.x.dtype).eps) if step.x.dtype == np.float16 else 0.0
        self.quantum = float(np.finfo(step.x.dtype).smallest_subnormal)
        self.parameter_quantum = float(np.finfo(setup.dtype).smallest_subnormal)
        self.setup, self.step, self.exact, self.ndim = setup, step, exact, step.x.ndim
        self.axes = (0, *range(2, self.ndim))
        self.count = step.x.size // setup.num_features if step.x.size else 0
        self.by_batch = step.training or not setup.tracks
        ones = np.ones(setup.num_features)
        weight = ones if setup.weight is None else np.abs(setup.weight.astype(np.float64))
        bias = 0 * ones if setup.bias is None else np.abs(setup.bias.astype(np.float64))
        self.weight, self.bias = self.along(weight), self.along(bias)
        self.std = np.sqrt(np.abs(exact.var + setup.eps))
        magnitudes = np.abs(step.x.astype(np.float64)).max(axis=self.axes, initial=0)
        self.largest = np.maximum(magnitudes, np.abs(exact.mean))

    def along(self, values: np.ndarray) -> np.ndarray:
        """View (C,) values along axis 1 of x."""
        return values.reshape(-1, *(1,) * (self.ndim - 2))

    def gradient_terms(self, floor: float = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Σ|terms| for the gradients of input, weight and bias.

        `floor` is added to |x̂|, for the error that x̂ has even where it is 0.
        """
        g = np.abs(self.step.grad_output.astype(np.float64))
        x_hat = np.abs(self.exact.x_hat) + floor
        bias_terms, weight_terms = g.sum(self.axes), (g * x_hat).sum(self.axes)
        inner = g
        if self.by_batch and self.count:
            inner = g + (
                self.along(bias_terms / self.count) + x_hat * self.along(weight_terms / self.count)
            )
        return self.weight / self.along(self.std) * inner, weight_terms, bias_terms

    def averaging(self) -> tuple[float, float, float]:
        """Return eps of the running statistics, and the weights of the old and the new value."""
        eps = float(np.finfo(self.setup.dtype).eps)
        if not self.step.training or self.count == 0:
            return 0.0, 1.0, 0.0  # they stay as they are, to the bit
        momentum = self.setup.momentum
        if momentum is None:
            momentum = 1 / self.exact.num_batches_tracked
        return eps, abs(1 - momentum), abs(momentum)

    def with_rounding(
        self,
        units: float,
        y: np.ndarray,
        grad_input: np.ndarray | None,
        grad_weight: np.ndarray | None,
        grad_bias: np.ndarray | None,
        mean: np.ndarray | None,
        var: np.ndarray | None,
    ) -> Tolerance:
        """Add what rounding to float16 may lose, `units` of its eps, and a quantum for every term.

        The quanta are what underflow loses.
        """
        y = y + units * self.rounding * (np.abs(self.exact.y) + y) + self.quantum
        if grad_input is not None:
            quanta = (2 + self.count + 3 * self.weight / self.along(self.std)) * self.quantum
            rounded = np.abs(self.exact.grad_input) + grad_input
            grad_input = grad_input + units * self.rounding * rounded + quanta
            grad_weight = grad_weight + (2 + self.count) * self.parameter_quantum
            grad_bias = grad_bias + (2 + self.count) * self.parameter_quantum
        if mean is not None:
            mean, var = mean + self.parameter_quantum, var + self.parameter_quantum
        return Tolerance(y, grad_input, grad_weight, grad_bias, mean, var)
