"""The largest allowed error of a result: two measures, both derived.

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
the mean, k in the variance, and of x̂ k · (1 + |x̂|). This is negligible beside eps, 2²⁹ · 2⁻⁵³.
What remains is the final rounding, eps / 2 of a result that is at most twice its largest term.
float16 is computed as float32 and rounded once more, eps / 2 of float16.

In float64, these errors are larger than eps: k replaces eps, and |x̂| + 1 replaces |x̂|, for the
part of k that does not shrink with x̂. So the output may lose k · (|weight| · (|x̂| + 1) + |bias|).
A gradient of the weight loses k in its sum and k / 2 · (|x̂| + 2) in each x̂, 2 k in all; the
third term of grad_input, x̂ · grad_weight / n, loses that, and k / 2 · (|x̂| + 2) and k / 2 by its
other factors, which is below 4 k.

The range: k · |weight| counts in float32 too where |weight| exceeds 10⁶ · max(1, |bias|) and x is
nearly the mean, which :func:`contract` does not allow for. In float64 Σ (x − mean)² has to be
finite, which ends at |x − mean| of some 10¹⁵⁴ / √n; the strategies stay below both.

:func:`correct` bounds the error of a correct implementation in straightforward arithmetic [1]_:

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

float16 inputs have their statistics and sums in float32, whose eps that is. What is rounded to
float16 on the way is x̂, the weight, their product and the result: four roundings, 2 eps of
float16, are added, times the terms of an output or a gradient. In both measures running
statistics that a step leaves alone stay as they are.

:func:`in_eps` is the unit in which errors are reported: one eps of the result's own dtype.

References
----------
.. [1] N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002,
   sections 1.9 (variance) and 4.2 (sums).
"""

import math
from typing import NamedTuple

import numpy as np

from npbn.testing.case import Setup, Step
from npbn.testing.convention_table import CONVENTIONS, Convention
from npbn.testing.oracle import Exact

# What the contract allows, in units of eps; for float64, in units of k.
OUTPUT_K, GRADIENT_K, RUNNING_K = 1, 4, 2
PYTORCH = CONVENTIONS["pytorch"]


class Tolerance(NamedTuple):
    """The largest allowed error of each result, of the result's shape (or None, as it is)."""

    y: np.ndarray
    grad_input: np.ndarray | None
    grad_weight: np.ndarray | None
    grad_bias: np.ndarray | None
    running_mean: np.ndarray | None
    running_var: np.ndarray | None


def contract(setup: Setup, step: Step, exact: Exact, convention: Convention = PYTORCH) -> Tolerance:
    """Return what npbn's accuracy contract allows."""
    scale = _Scale(setup, step, exact, convention)
    unit = float64_unit(scale.count) if scale.is_float64 else scale.eps
    averaging = RUNNING_K * max(unit, scale.averaging_eps) if scale.averages else 0
    return scale.tolerance(OUTPUT_K * unit, GRADIENT_K * unit, averaging, scale.rounding / 2)


def in_eps(setup: Setup, step: Step, exact: Exact, convention: Convention = PYTORCH) -> Tolerance:
    """Return one eps of each result's dtype, times the terms that the contract multiplies."""
    scale = _Scale(setup, step, exact, convention)
    unit, of_parameters = float(np.finfo(step.x.dtype).eps), scale.averaging_eps
    of_results = scale.tolerance(unit, unit, of_parameters, 0)
    weight, bias = of_results.grad_weight, of_results.grad_bias
    if weight is None or bias is None:  # the step goes forward alone
        return of_results
    ratio = of_parameters / unit  # the gradients of weight and bias have the parameters' dtype
    return of_results._replace(grad_weight=weight * ratio, grad_bias=bias * ratio)


def float64_unit(count: int) -> float:
    """Return k, the relative error of the sums of a float64 channel."""
    return (min(count, 512) + math.log2(max(count, 1)) + 8) * 2.0**-53


def correct(setup: Setup, step: Step, exact: Exact, convention: Convention = PYTORCH) -> Tolerance:
    """Return the error bound of a correct implementation in straightforward arithmetic."""
    scale = _Scale(setup, step, exact, convention)
    unit = 2 * (scale.count + 8) * scale.eps
    kappa = 1 + scale.largest / scale.std
    x_hat_terms = scale.weight * (1 + np.abs(exact.x_hat))
    y = scale.along(unit * kappa) * x_hat_terms + unit * scale.bias
    y = y + 2 * scale.rounding * (x_hat_terms + scale.bias) + scale.quantum
    grad_input = grad_weight = grad_bias = None
    if step.grad_output is not None:
        terms = scale.gradient_terms(floor=1)
        lost = scale.along(unit * kappa), unit * kappa, unit
        grad_input, grad_weight, grad_bias = (
            (k + 2 * scale.rounding) * t + quantum
            for k, t, quantum in zip(lost, terms, scale.gradient_quanta(), strict=True)
        )
    mean, var = None, None
    if setup.tracks:
        unit = 2 * (scale.count + 8) * scale.averaging_eps if scale.averages else 0
        kept, new = scale.averaging
        old_mean, old_var = setup.statistics
        of_mean = unit * scale.largest
        mean = unit * kept * np.abs(old_mean) + new * of_mean + scale.parameter_quantum
        var = unit * (kept * np.abs(old_var) + new * scale.stored_var)
        var = var + new * (np.sqrt(scale.stored_var) * of_mean + of_mean**2)
        var = var + scale.parameter_quantum
    return Tolerance(y, grad_input, grad_weight, grad_bias, mean, var)


class _Scale:
    """The magnitudes that the measures are made of."""

    def __init__(self, setup: Setup, step: Step, exact: Exact, convention: Convention):
        # float16 is computed in float32, and rounded at the end.
        self.eps = float(np.finfo(np.result_type(step.x.dtype, np.float32)).eps)
        self.rounding = float(np.finfo(step.x.dtype).eps) if step.x.dtype == np.float16 else 0.0
        self.quantum = float(np.finfo(step.x.dtype).smallest_subnormal)
        self.parameter_quantum = float(np.finfo(setup.dtype).smallest_subnormal)
        self.averaging_eps = float(np.finfo(setup.dtype).eps)
        self.is_float64 = step.x.dtype == np.float64
        self.setup, self.step, self.exact, self.ndim = setup, step, exact, step.x.ndim
        self.axes = (0, *range(2, self.ndim))
        self.count = step.x.size // setup.num_features if step.x.size else 0
        self.by_batch = step.training or not setup.tracks
        self.averages = setup.tracks and step.training and self.count > 0
        ones = np.ones(setup.num_features)
        weight = ones if setup.weight is None else np.abs(setup.weight.astype(np.float64))
        bias = 0 * ones if setup.bias is None else np.abs(setup.bias.astype(np.float64))
        self.weight, self.bias = self.along(weight), self.along(bias)
        self.std = np.sqrt(np.abs(exact.var + setup.eps))
        magnitudes = np.abs(step.x.astype(np.float64)).max(axis=self.axes, initial=0)
        self.largest = np.maximum(magnitudes, np.abs(exact.mean))
        self.stored_var = exact.var
        if convention.stores == "unbiased":
            self.stored_var = exact.var * self.count / max(self.count - 1, 1)
        self.averaging = self._averaging(convention)

    def along(self, values: np.ndarray) -> np.ndarray:
        """View (C,) values along axis 1 of x."""
        return values.reshape(-1, *(1,) * (self.ndim - 2))

    def _averaging(self, convention: Convention) -> tuple[float, float]:
        """Return the weights of the old and the new value of the running statistics."""
        if not self.averages:
            return 1.0, 0.0  # they stay as they are, to the bit
        if self.setup.momentum is None:
            new = 1 / self.exact.num_batches_tracked
        else:
            new = convention.weight_of_new(self.setup.momentum)
        return abs(1 - new), abs(new)

    def output_terms(self) -> np.ndarray:
        """Return what an output is made of."""
        x_hat = np.abs(self.exact.x_hat)
        if self.is_float64:
            terms: np.ndarray = self.weight * (x_hat + 1) + self.bias
        else:
            terms = np.maximum(1, np.maximum(self.weight * x_hat, self.bias))
        return terms

    def gradient_terms(self, floor: float = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Σ|terms| for the gradients of input, weight and bias.

        `floor` is added to |x̂|, for the error that x̂ has even where it is 0.
        """
        assert self.step.grad_output is not None
        g = np.abs(self.step.grad_output.astype(np.float64))
        x_hat = np.abs(self.exact.x_hat) + floor
        bias_terms, weight_terms = g.sum(self.axes), (g * x_hat).sum(self.axes)
        inner = g
        if self.by_batch and self.count:
            inner = g + (
                self.along(bias_terms / self.count) + x_hat * self.along(weight_terms / self.count)
            )
        return self.weight / self.along(self.std) * inner, weight_terms, bias_terms

    def gradient_quanta(self) -> tuple[np.ndarray, float, float]:
        """Return what underflow may lose of the gradients: a quantum for every term."""
        to_input = (2 + self.count + 3 * self.weight / self.along(self.std)) * self.quantum
        to_parameters = (2 + self.count) * self.parameter_quantum
        return to_input, to_parameters, to_parameters

    def running_terms(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what the running mean and the running variance are averages of."""
        kept, new = self.averaging
        old_mean, old_var = self.setup.statistics
        new_mean = np.maximum(np.abs(self.exact.mean), np.sqrt(np.abs(self.exact.var)))
        return (
            kept * np.abs(old_mean) + new * new_mean,
            kept * np.abs(old_var) + new * self.stored_var,
        )

    def tolerance(
        self, output: float, gradient: float, average: float, rounding: float
    ) -> Tolerance:
        """Return multiples of the terms, `rounding` of y and grad_input, and the quanta."""
        y = output * self.output_terms()
        y = y + rounding * (np.abs(self.exact.y) + y) + self.quantum
        grad_input = grad_weight = grad_bias = None
        if self.exact.grad_input is not None:
            terms = self.gradient_terms(floor=1 if self.is_float64 else 0)
            to_input, to_weight, to_bias = (gradient * t for t in terms)
            to_input = to_input + rounding * (np.abs(self.exact.grad_input) + to_input)
            of_input, of_weight, of_bias = self.gradient_quanta()
            grad_input = to_input + of_input
            grad_weight, grad_bias = to_weight + of_weight, to_bias + of_bias
        mean = var = None
        if self.setup.tracks:
            mean, var = (average * t + self.parameter_quantum for t in self.running_terms())
        return Tolerance(y, grad_input, grad_weight, grad_bias, mean, var)
