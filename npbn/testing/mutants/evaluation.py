"""Mutants whose output is wrong in evaluation alone."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, TextbookBatchNorm


class BatchStatisticsInEval(TextbookBatchNorm):
    """Normalises by the batch in evaluation: a mode flag that never arrives."""

    caught_by = "output in evaluation"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        return super().statistics(values, training=True)


class UntrackedEvalIsIdentity(TextbookBatchNorm):
    """Without running statistics, evaluates with their initial values, mean 0 and variance 1."""

    caught_by = "without running statistics the batch normalises"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        if self.running_mean is None and not training:
            return np.zeros(self.num_features), np.ones(self.num_features)
        return super().statistics(values, training)


class EvalWithoutEps(TextbookBatchNorm):
    """Takes eps to be a matter of training alone."""

    caught_by = "eps in evaluation"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        return mean, var if self.by_batch(training) else var - self.eps


class EvalUnbiases(TextbookBatchNorm):
    """Multiplies the running variance by n / (n − 1) in evaluation, where it has been already."""

    caught_by = "output in evaluation"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        n = self.count(values)
        return mean, var * n / (n - 1) if not self.by_batch(training) and n > 1 else var


class EvalMeanOfBatch(TextbookBatchNorm):
    """Centres by the batch and scales by the running variance in evaluation."""

    caught_by = "output in evaluation"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        return (mean if self.by_batch(training) or not values.size else self.mean(values)), var


class BiasLostInEval(TextbookBatchNorm):
    """Leaves the bias out in evaluation: folded into the next layer, which is not there."""

    caught_by = "output in evaluation"

    def forward(self, x: Array, training: bool) -> Array:
        bias, self.bias = self.bias, self.bias if self.by_batch(training) else None
        try:
            return super().forward(x, training)
        finally:
            self.bias = bias
