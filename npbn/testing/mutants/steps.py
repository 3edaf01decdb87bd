"""Mutants that are right in their first step, or alone."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import threading
import time

import numpy as np

from npbn.testing.textbook import TextbookBatchNorm


class KeepsFirstCount(TextbookBatchNorm):
    """Divides by the number of values of its first batch for ever."""

    first: int | None = None

    def count(self, values):
        self.first = self.first or super().count(values)
        return self.first


class FoldsOnce(TextbookBatchNorm):
    """Computes 1 / sqrt(running_var + eps) at the first evaluation and never again."""

    folded: np.ndarray | None = None

    def statistics(self, values, training):
        mean, var = super().statistics(values, training)
        if not self.by_batch(training):
            self.folded = var if self.folded is None else self.folded
            var = self.folded
        return mean, var


class FoldsUntilTraining(TextbookBatchNorm):
    """Computes it anew after training only, and so not after other statistics are loaded."""

    folded: tuple | None = None

    def statistics(self, values, training):
        if self.by_batch(training):
            self.folded = None
            return super().statistics(values, training)
        self.folded = self.folded or super().statistics(values, training)
        return self.folded


class KeepsFirstWeight(TextbookBatchNorm):
    """Copies the weight to the device at its first use, and never again."""

    copied: np.ndarray | None = None

    def affine(self, x_hat):
        held = self.weight
        self.copied = held if self.copied is None else self.copied
        self.weight = self.copied
        try:
            return super().affine(x_hat)
        finally:
            self.weight = held


class KeepsFirstBias(TextbookBatchNorm):
    """Copies the bias to the device at its first use, and never again."""

    copied: np.ndarray | None = None

    def affine(self, x_hat):
        held = self.bias
        self.copied = held if self.copied is None else self.copied
        self.bias = self.copied
        try:
            return super().affine(x_hat)
        finally:
            self.bias = held


class BackwardKeepsFirstWeight(TextbookBatchNorm):
    """Goes backward with the weight of its first step."""

    copied: np.ndarray | None = None

    def scale(self, cache):
        if self.weight is None:
            return super().scale(cache)
        self.copied = self.weight if self.copied is None else self.copied
        return cache.rstd * self.copied


class LoadsStatisticsOnce(TextbookBatchNorm):
    """Evaluates by statistics of its own, which what is loaded later never reaches."""

    own: tuple | None = None

    def statistics(self, values, training):
        if not self.by_batch(training):
            self.own = self.own or super().statistics(values, training)
            return self.own
        return super().statistics(values, training)

    def update(self, mean, var):
        super().update(mean, var)
        self.own = self.running_mean.astype(np.float64), self.running_var.astype(np.float64)


class MomentumDecays(TextbookBatchNorm):
    """Halves the momentum with every batch."""

    steps = 0

    def factor(self):
        return super().factor() * 0.5 ** (self.num_batches_tracked - 1)


class UpdatesEveryOtherStep(TextbookBatchNorm):
    """Updates the running statistics in every other step, to save time."""

    def update(self, mean, var):
        if self.num_batches_tracked % 2:
            super().update(mean, var)


class StatisticsLag(TextbookBatchNorm):
    """Averages the batch before this one: a pipeline that is one step late."""

    waiting: tuple | None = None

    def update(self, mean, var):
        super().update(*(self.waiting or (mean, var)))
        self.waiting = mean, var


class EvaluationDrifts(TextbookBatchNorm):
    """Updates the running statistics from the second evaluation in a row on."""

    evaluations = 0

    def tracks(self, training):
        self.evaluations = 0 if training else self.evaluations + 1
        return super().tracks(training) or (self.running_mean is not None and self.evaluations > 1)


class EvaluatesByLastBatch(TextbookBatchNorm):
    """Evaluates by the statistics of the last training batch, if there was one."""

    last: tuple | None = None

    def statistics(self, values, training):
        if self.by_batch(training):
            self.last = super().statistics(values, training)
            return self.last
        return self.last or super().statistics(values, training)


class ModeSticks(TextbookBatchNorm):
    """Normalises the first evaluation after training by the batch: the mode arrives a step late."""

    was_training = False

    def statistics(self, values, training):
        late, self.was_training = self.was_training, training
        return super().statistics(values, training or late)


class BackwardModeSticks(TextbookBatchNorm):
    """Goes backward for ever as after its first forward pass."""

    mode: bool | None = None

    def remember(self, cache):
        self.mode = cache.by_batch if self.mode is None else self.mode
        super().remember(cache._replace(by_batch=self.mode))


class BiasGradientAccumulates(TextbookBatchNorm):
    """Adds every bias gradient to the ones before, and none is ever cleared."""

    accumulated: np.ndarray | float = 0.0

    def bias_gradient(self, g):
        self.accumulated = self.accumulated + super().bias_gradient(g)
        return self.accumulated


class InputGradientAccumulates(TextbookBatchNorm):
    """Adds to a gradient of the same shape that it returned before: memory that is not cleared."""

    before: np.ndarray | None = None

    def input_gradient(self, g, cache):
        grad = super().input_gradient(g, cache)
        if self.before is not None and self.before.shape == grad.shape:
            grad = grad + self.before
        self.before = grad
        return grad


class CountsInBackward(TextbookBatchNorm):
    """Counts a batch in both passes."""

    def backward(self, grad_output):
        if self.cache.by_batch and self.running_mean is not None:
            self.num_batches_tracked += 1
        return super().backward(grad_output)


class CounterOfOneByte(TextbookBatchNorm):
    """Counts the batches modulo two: a flag where a number should be."""

    def count_batch(self, values):
        self.num_batches_tracked = (self.num_batches_tracked + 1) % 2


class UpdatesInBackward(TextbookBatchNorm):
    """Updates the running statistics in backward once more: the forward pass is computed anew."""

    def backward(self, grad_output):
        if self.cache.by_batch and self.running_mean is not None:
            self.update(self.cache.mean, self.cache.var)
        return super().backward(grad_output)


class CacheOfAShape(TextbookBatchNorm):
    """Keeps one cache for all layers that see batches of the same shape."""

    caches: dict = {}  # noqa: RUF012 - it is the mistake

    def remember(self, cache):
        super().remember(cache)
        self.shape = cache.x_hat.shape
        self.caches[self.shape] = cache

    def backward(self, grad_output):
        self.cache = self.caches[self.shape]
        return super().backward(grad_output)


class ScratchOfAProcess(TextbookBatchNorm):
    """Keeps the mean of the present call in a global place, which two threads share."""

    scratch: dict = {}  # noqa: RUF012 - it is the mistake

    def statistics(self, values, training):
        mean, var = super().statistics(values, training)
        self.scratch[self.num_features] = mean
        if threading.active_count() > 1:
            time.sleep(1e-3)  # as long as a large batch takes
        return self.scratch[self.num_features], var


class SecondBackwardDiffers(TextbookBatchNorm):
    """Multiplies the cached x̂ by the gradient in place, to save memory."""

    def input_gradient(self, g, cache):
        grad = super().input_gradient(g, cache)
        np.multiply(cache.x_hat, g, cache.x_hat)
        return grad

    def backward(self, grad_output):
        g, cache = self.working(grad_output), self.cache
        weight = bias = None
        if self.weight is not None:
            weight = self.weight_gradient(g, cache).astype(self.weight.dtype)
        if self.bias is not None:
            bias = self.bias_gradient(g).astype(self.bias.dtype)
        return self.input_gradient(g, cache).astype(grad_output.dtype), weight, bias


class FoldsInPlace(TextbookBatchNorm):
    """Folds 1 / sqrt(running_var + eps) into the weight itself at the first evaluation."""

    folded = False

    @np.errstate(all="ignore")
    def forward(self, x, training):
        y = super().forward(x, training)
        if not training and self.weight is not None and not self.folded:
            self.weight = (self.weight * self.cache.rstd).astype(self.weight.dtype)
            self.folded = True
        return y
