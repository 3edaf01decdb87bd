"""Mutants whose gradients are wrong."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import TextbookBatchNorm


class NoMeanTerm(TextbookBatchNorm):
    """Lets no gradient through the mean."""

    def mean_term(self, g):
        return 0.0


class NoVarianceTerm(TextbookBatchNorm):
    """Lets no gradient through the variance."""

    def var_term(self, g, cache):
        return 0.0


class VarianceTermSign(TextbookBatchNorm):
    """Adds the variance's term: the minus of d(var + eps)^(−1/2) was lost."""

    def var_term(self, g, cache):
        return -super().var_term(g, cache)


class ConstantStatistics(TextbookBatchNorm):
    """Goes backward in training as in evaluation: the statistics were detached."""

    def input_gradient(self, g, cache):
        return super().input_gradient(g, cache._replace(by_batch=False))


class EvalBackwardAsTraining(TextbookBatchNorm):
    """Goes backward in evaluation as in training, through statistics that were constants."""

    def input_gradient(self, g, cache):
        return super().input_gradient(g, cache._replace(by_batch=True))


class NoEpsInBackward(TextbookBatchNorm):
    """Divides by sqrt(var) in backward, recomputed there without eps."""

    def input_gradient(self, g, cache):
        return super().input_gradient(g, cache._replace(rstd=1 / np.sqrt(cache.var)))


class UnbiasedBackward(TextbookBatchNorm):
    """Divides by n − 1 in backward: the gradient of another variance."""

    def divisor(self, g):
        return self.count(g) - 1


class RowsInBackward(TextbookBatchNorm):
    """Divides by N for N·L: code for (N, C) that was widened to images in forward only."""

    def divisor(self, g):
        return len(g)


class NoWeightInBackward(TextbookBatchNorm):
    """Leaves the weight out of the input's gradient: right as long as it is all ones."""

    def scale(self, cache):
        return cache.rstd


class WeightGradientUncentred(TextbookBatchNorm):
    """Sums g · x · rstd for the weight's gradient, without the mean."""

    def weight_gradient(self, g, cache):
        return super().weight_gradient(g, cache) + self.total(g) * cache.mean * cache.rstd


class WeightGradientUnscaled(TextbookBatchNorm):
    """Sums g · (x − mean) for the weight's gradient, without rstd."""

    def weight_gradient(self, g, cache):
        return super().weight_gradient(g, cache) / cache.rstd


class WeightGradientAveraged(TextbookBatchNorm):
    """Averages the weight's gradient over the batch, which the loss has done already."""

    def weight_gradient(self, g, cache):
        return super().weight_gradient(g, cache) / max(self.count(g), 1)


class BiasGradientAveraged(TextbookBatchNorm):
    """Averages the bias's gradient over the batch, which the loss has done already."""

    def bias_gradient(self, g):
        return super().bias_gradient(g) / max(self.count(g), 1)
