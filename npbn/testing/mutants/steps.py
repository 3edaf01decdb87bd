"""Mutants that are right in their first step, or alone."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, Cache, Gradients, TextbookBatchNorm


class KeepsFirstCount(TextbookBatchNorm):
    """Divides by the number of values of its first batch in every step."""

    caught_by = "another shape at every step"

    first: int | None = None

    def count(self, values: Array) -> int:
        self.first = self.first or super().count(values)
        return self.first


class FoldsOnce(TextbookBatchNorm):
    """Computes 1 / sqrt(running_var + eps) at the first evaluation and never again."""

    caught_by = "other weights and statistics between steps"

    folded: Array | None = None

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        if not self.by_batch(training):
            self.folded = var if self.folded is None else self.folded
            var = self.folded
        return mean, var


class FoldsUntilTraining(TextbookBatchNorm):
    """Computes it anew after training only, and so not after other statistics are loaded."""

    caught_by = "other weights and statistics between steps"

    folded: tuple[Array, Array] | None = None

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        if self.by_batch(training):
            self.folded = None
            return super().statistics(values, training)
        self.folded = self.folded or super().statistics(values, training)
        return self.folded


class KeepsFirstWeight(TextbookBatchNorm):
    """Copies the weight to the device at its first use, and never again."""

    caught_by = "other weights and statistics between steps"

    copied: Array | None = None

    def affine(self, x_hat: Array) -> Array:
        held = self.weight
        self.copied = held if self.copied is None else self.copied
        self.weight = self.copied
        try:
            return super().affine(x_hat)
        finally:
            self.weight = held


class KeepsFirstBias(TextbookBatchNorm):
    """Copies the bias to the device at its first use, and never again."""

    caught_by = "other weights and statistics between steps"

    copied: Array | None = None

    def affine(self, x_hat: Array) -> Array:
        held = self.bias
        self.copied = held if self.copied is None else self.copied
        self.bias = self.copied
        try:
            return super().affine(x_hat)
        finally:
            self.bias = held


class BackwardKeepsFirstWeight(TextbookBatchNorm):
    """Goes backward with the weight of its first step."""

    caught_by = "other weights and statistics between steps"

    copied: Array | None = None

    def scale(self, cache: Cache) -> Array:
        if self.weight is None:
            return super().scale(cache)
        self.copied = self.weight if self.copied is None else self.copied
        scale: Array = cache.rstd * self.copied
        return scale


class LoadsStatisticsOnce(TextbookBatchNorm):
    """Evaluates with its own copy of the statistics, which loading does not update."""

    caught_by = "other weights and statistics between steps"

    own: tuple[Array, Array] | None = None

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        if not self.by_batch(training):
            self.own = self.own or super().statistics(values, training)
            return self.own
        return super().statistics(values, training)

    def update(self, mean: Array, var: Array) -> None:
        super().update(mean, var)
        assert self.running_mean is not None
        assert self.running_var is not None
        self.own = self.running_mean.astype(np.float64), self.running_var.astype(np.float64)


class MomentumDecays(TextbookBatchNorm):
    """Halves the momentum with every batch."""

    caught_by = "three training steps"

    steps = 0

    def factor(self) -> float:
        factor: float = super().factor() * 0.5 ** (self.num_batches_tracked - 1)
        return factor


class UpdatesEveryOtherStep(TextbookBatchNorm):
    """Updates the running statistics in every other step, to save time."""

    caught_by = "three training steps"

    def update(self, mean: Array, var: Array) -> None:
        if self.num_batches_tracked % 2:
            super().update(mean, var)


class StatisticsLag(TextbookBatchNorm):
    """Averages the batch before this one: a pipeline that is one step late."""

    caught_by = "three training steps"

    waiting: tuple[Array, Array] | None = None

    def update(self, mean: Array, var: Array) -> None:
        super().update(*(self.waiting or (mean, var)))
        self.waiting = mean, var


class EvaluationDrifts(TextbookBatchNorm):
    """Updates the running statistics from the second evaluation in a row on."""

    caught_by = "evaluation twice"

    evaluations = 0

    def tracks(self, training: bool) -> bool:
        self.evaluations = 0 if training else self.evaluations + 1
        return super().tracks(training) or (self.running_mean is not None and self.evaluations > 1)


class EvaluatesByLastBatch(TextbookBatchNorm):
    """Evaluates by the statistics of the last training batch, if there was one."""

    caught_by = "several steps, switching modes"

    last: tuple[Array, Array] | None = None

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        if self.by_batch(training):
            self.last = super().statistics(values, training)
            return self.last
        return self.last or super().statistics(values, training)


class ModeSticks(TextbookBatchNorm):
    """Normalises the first evaluation after training by the batch: the mode arrives a step late."""

    caught_by = "several steps, switching modes"

    was_training = False

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        late, self.was_training = self.was_training, training
        return super().statistics(values, training or late)


class BackwardModeSticks(TextbookBatchNorm):
    """Uses the mode of its first forward pass in every backward pass."""

    caught_by = "several steps, switching modes"

    mode: bool | None = None

    def remember(self, cache: Cache) -> None:
        self.mode = cache.by_batch if self.mode is None else self.mode
        super().remember(cache._replace(by_batch=self.mode))


class CountsInBackward(TextbookBatchNorm):
    """Counts a batch in both passes."""

    caught_by = "num_batches_tracked"

    def backward(self, grad_output: Array) -> Gradients:
        if self.cache.by_batch and self.running_mean is not None:
            self.num_batches_tracked += 1
        return super().backward(grad_output)


class CounterOfOneByte(TextbookBatchNorm):
    """Counts the batches modulo two: a flag where a number should be."""

    caught_by = "three training steps"

    def count_batch(self, values: Array) -> None:
        self.num_batches_tracked = (self.num_batches_tracked + 1) % 2


class UpdatesInBackward(TextbookBatchNorm):
    """Updates the running statistics in backward once more: the forward pass is computed anew."""

    caught_by = "running statistics"

    def backward(self, grad_output: Array) -> Gradients:
        if self.cache.by_batch and self.running_mean is not None:
            self.update(self.cache.mean, self.cache.var)
        return super().backward(grad_output)


class FoldsInPlace(TextbookBatchNorm):
    """Folds 1 / sqrt(running_var + eps) into the weight itself at the first evaluation."""

    caught_by = "evaluation twice"

    folded = False

    @np.errstate(all="ignore")
    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        if not training and self.weight is not None and not self.folded:
            self.weight = (self.weight * self.cache.rstd).astype(self.weight.dtype)
            self.folded = True
        return y
