"""Mutants that are right alone: not beside another layer, another thread, or a second pass."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import threading
import time

import numpy as np

from npbn.testing.textbook import Array, Cache, Gradients, TextbookBatchNorm


class BiasGradientAccumulates(TextbookBatchNorm):
    """Adds every bias gradient to the ones before, and none is ever cleared."""

    caught_by = "several steps, switching modes"

    accumulated: Array | float = 0.0

    def bias_gradient(self, g: Array) -> Array:
        self.accumulated = self.accumulated + super().bias_gradient(g)
        return self.accumulated


class InputGradientAccumulates(TextbookBatchNorm):
    """Adds to a gradient of the same shape that it returned before: memory that is not cleared."""

    caught_by = "several steps, switching modes"

    before: Array | None = None

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        grad = super().input_gradient(g, cache)
        if self.before is not None and self.before.shape == grad.shape:
            grad = grad + self.before
        self.before = grad
        return grad


class CacheOfAShape(TextbookBatchNorm):
    """Keeps one cache for all layers that see batches of the same shape."""

    caught_by = "two layers do not share"

    caches: dict[tuple[int, ...], Cache] = {}  # noqa: RUF012 - it is the mistake

    def remember(self, cache: Cache) -> None:
        super().remember(cache)
        self.shape = cache.x_hat.shape
        self.caches[self.shape] = cache

    def backward(self, grad_output: Array) -> Gradients:
        self.cache = self.caches[self.shape]
        return super().backward(grad_output)


class ScratchOfAProcess(TextbookBatchNorm):
    """Keeps the mean of the present call in a global place, which two threads share."""

    caught_by = "two threads, a layer in each"

    scratch: dict[int, Array] = {}  # noqa: RUF012 - it is the mistake

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        self.scratch[self.num_features] = mean
        if threading.active_count() > 1:
            time.sleep(1e-3)  # as long as a large batch takes
        return self.scratch[self.num_features], var


class SecondBackwardDiffers(TextbookBatchNorm):
    """Multiplies the cached x̂ by the gradient in place, to save memory."""

    caught_by = "backward twice is refused or gives the same"

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        grad = super().input_gradient(g, cache)
        np.multiply(cache.x_hat, g, cache.x_hat)
        return grad

    def backward(self, grad_output: Array) -> Gradients:
        g, cache = self.working(grad_output), self.cache
        weight = bias = None
        if self.weight is not None:
            weight = self.weight_gradient(g, cache).astype(self.weight.dtype)
        if self.bias is not None:
            bias = self.bias_gradient(g).astype(self.bias.dtype)
        return self.input_gradient(g, cache).astype(grad_output.dtype), weight, bias
