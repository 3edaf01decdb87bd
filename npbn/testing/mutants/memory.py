"""Mutants that are wrong where two calls, or two owners, share memory."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, Cache, Gradients, TextbookBatchNorm, along


class NormalisesInPlace(TextbookBatchNorm):
    """Leaves x̂ in the caller's input, which a residual connection still needs."""

    caught_by = "inputs are left unchanged"

    @np.errstate(all="ignore")
    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        x[...] = self.cache.x_hat
        return y


class ScalesGradientInPlace(TextbookBatchNorm):
    """Multiplies the caller's ``grad_output`` by rstd, with ``*=``."""

    caught_by = "inputs are left unchanged"

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Gradients:
        gradients = super().backward(grad_output)
        grad_output *= along(self.cache.rstd, grad_output)
        return gradients


class StaleCache(TextbookBatchNorm):
    """Uses the cache of its first forward pass in every step: ``if self.cache is None``."""

    caught_by = "several steps, switching modes"

    def remember(self, cache: Cache) -> None:
        self.cache = self.cache or cache


class SharedCache(TextbookBatchNorm):
    """Keeps one cache for all layers, on the class: fails once there are two of them."""

    caught_by = "two layers do not share"

    def remember(self, cache: Cache) -> None:
        type(self).cache = cache


class ReusesOutput(TextbookBatchNorm):
    """Returns the same buffer from every call, and so changes what it returned before."""

    caught_by = "results are the caller's"

    buffer: Array | None = None

    def forward(self, x: Array, training: bool) -> Array:
        self.buffer = _into(self.buffer, super().forward(x, training))
        return self.buffer


class ReusesGradient(TextbookBatchNorm):
    """Returns the same buffer for every input's gradient."""

    caught_by = "results are the caller's"

    buffer: Array | None = None

    def backward(self, grad_output: Array) -> Gradients:
        grad_input, grad_weight, grad_bias = super().backward(grad_output)
        assert grad_input is not None
        self.buffer = _into(self.buffer, grad_input)
        return self.buffer, grad_weight, grad_bias


class KeepsOutput(TextbookBatchNorm):
    """Without weight and bias, keeps its output for x̂: an in-place ReLU behind it changes both."""

    caught_by = "an output that is overwritten does not spoil backward"

    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        if self.weight is None and self.bias is None:
            self.remember(self.cache._replace(x_hat=y))
        return y


class GradientAccumulates(TextbookBatchNorm):
    """Adds every weight gradient to the ones before, and none is ever cleared."""

    caught_by = "several steps, switching modes"

    accumulated: Array | float = 0.0

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        self.accumulated = self.accumulated + super().weight_gradient(g, cache)
        return self.accumulated


def _into(buffer: Array | None, values: Array) -> Array:
    """Write `values` into `buffer` if they fit there; return what holds them."""
    if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
        return values
    buffer[...] = values
    return buffer


class EvaluatesInPlace(TextbookBatchNorm):
    """Writes the output of evaluation over its input."""

    caught_by = "inputs are left unchanged"

    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        if not training and x.flags.writeable:
            x[...] = y
        return y


class ReusesWeightGradient(TextbookBatchNorm):
    """Returns the same buffer for every weight's gradient."""

    caught_by = "results are the caller's"

    buffer: Array | None = None

    def backward(self, grad_output: Array) -> Gradients:
        grad_input, grad_weight, grad_bias = super().backward(grad_output)
        if grad_weight is not None:
            self.buffer = grad_weight = _into(self.buffer, grad_weight)
        return grad_input, grad_weight, grad_bias


class ReusesOutputInEval(TextbookBatchNorm):
    """Returns the same buffer from every evaluation."""

    caught_by = "results are the caller's"

    buffer: Array | None = None

    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        if not training:
            self.buffer = y = _into(self.buffer, y)
        return y


class BackwardWritesInput(TextbookBatchNorm):
    """Leaves the gradient in the memory of the input, which it kept by reference."""

    caught_by = "inputs are left unchanged"

    x: Array | None = None

    def forward(self, x: Array, training: bool) -> Array:
        self.x = x
        return super().forward(x, training)

    def backward(self, grad_output: Array) -> Gradients:
        gradients = super().backward(grad_output)
        assert self.x is not None
        if self.x.flags.writeable:
            self.x[...] = gradients[0]
        return gradients
