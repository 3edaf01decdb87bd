"""Mutants whose output is wrong, or that take what they should refuse, or refuse what is right."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import math

import numpy as np

from npbn.testing.textbook import Array, TextbookBatchNorm, along


class UnbiasedNormalisation(TextbookBatchNorm):
    """Normalises by the unbiased variance: ``torch.var``'s default, ``ddof=1``."""

    caught_by = "output in training"

    def var(self, values: Array, mean: Array) -> Array:
        return super().var(values, mean) * self.count(values) / (self.count(values) - 1)

    def stored_var(self, var: Array, values: Array) -> Array:
        return var


class EpsOutsideRoot(TextbookBatchNorm):
    """Divides by sqrt(var) + eps, as Adam does: seen where var is not far above eps."""

    caught_by = "eps is added to the variance, under the root"

    def rstd(self, var: Array) -> Array:
        rstd: Array = 1 / (np.sqrt(var) + self.eps)
        return rstd


class EpsAsFloor(TextbookBatchNorm):
    """Takes max(var, eps) for var + eps, a "guard against division by zero"."""

    caught_by = "eps is added to the variance, under the root"

    def rstd(self, var: Array) -> Array:
        rstd: Array = 1 / np.sqrt(np.maximum(var, self.eps))
        return rstd


class HardCodedEps(TextbookBatchNorm):
    """Leaves its argument unread: a converter that drops an attribute equal to its own default."""

    caught_by = "eps is added to the variance, under the root"

    def rstd(self, var: Array) -> Array:
        return 1 / np.sqrt(var + 1e-5)


class NoRoot(TextbookBatchNorm):
    """Divides by the variance, as if it had been given standard deviations."""

    caught_by = "output in training"

    def rstd(self, var: Array) -> Array:
        return 1 / (var + self.eps)


class MomentOfSquares(TextbookBatchNorm):
    """Takes E[x²] − E[x]² in float32: one pass over memory, and cancellation when |mean| ≫ std."""

    caught_by = "mean up to 1e4 standard deviations"

    def var(self, values: Array, mean: Array) -> Array:
        values = values.astype(np.float32)
        var: Array = self.mean(values * values) - self.mean(values) ** 2
        return var


class WithinSampleVariance(TextbookBatchNorm):
    """Averages each sample's own variance: merging parts without the spread of their means."""

    caught_by = "rank 3: (N, C, L)"

    def var(self, values: Array, mean: Array) -> Array:
        if values.ndim == 2:
            return super().var(values, mean)
        inner = tuple(range(2, values.ndim))
        own_mean = values.sum(inner, keepdims=True) / math.prod(values.shape[2:])
        return self.mean((values - own_mean) ** 2)


class ChannelsLast(TextbookBatchNorm):
    """Sums over all axes but the last, with ``reshape(-1, C)``: right for NHWC and rank 2 alone."""

    caught_by = "rank 3: (N, C, L)"

    def total(self, values: Array) -> Array:
        total: Array = values.reshape(-1, self.num_features).sum(axis=0)
        return total


class BiasBeforeWeight(TextbookBatchNorm):
    """Adds the bias first, (x̂ + bias) · weight: a wrong folding into the next layer."""

    caught_by = "output in training"

    def affine(self, x_hat: Array) -> Array:
        y = x_hat if self.bias is None else x_hat + along(self.bias, x_hat)
        return y if self.weight is None else y * along(self.weight, y)


class AffineBothOrNone(TextbookBatchNorm):
    """Leaves the weight out when there is no bias, or the other way round: one ``affine`` flag."""

    caught_by = "weight without bias"

    def affine(self, x_hat: Array) -> Array:
        return x_hat if self.weight is None or self.bias is None else super().affine(x_hat)


class RunningStatisticsInTraining(TextbookBatchNorm):
    """Normalises by the running statistics in training: Keras's ``trainable=False`` confusion."""

    caught_by = "output in training"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        return super().statistics(values, training=False)


class AcceptsOneValue(TextbookBatchNorm):
    """Trains on one value per channel: the output is the bias, the running variance NaN."""

    caught_by = "one value a channel is refused"

    def refuse(self, x: Array, training: bool) -> None:
        pass


class RefusesOneSample(TextbookBatchNorm):
    """Looks at N where N·L counts, and so refuses to train on one image."""

    caught_by = "one sample of several positions will do"

    def refuse(self, x: Array, training: bool) -> None:
        if self.by_batch(training) and len(x) == 1:
            raise ValueError("expected more than 1 sample")


class EpsSquared(TextbookBatchNorm):
    """Adds eps² to the variance."""

    caught_by = "eps is added to the variance, under the root"

    def rstd(self, var: Array) -> Array:
        return 1 / np.sqrt(var + self.eps**2)


class EpsTwice(TextbookBatchNorm):
    """Adds eps to the variance when it is measured and once more under the root."""

    caught_by = "eps is added to the variance, under the root"

    def rstd(self, var: Array) -> Array:
        return 1 / np.sqrt(var + 2 * self.eps)


class TrainingByRunningVariance(TextbookBatchNorm):
    """Centres by the batch and scales by the running variance in training."""

    caught_by = "output in training"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        return mean, var if self.running_var is None else self.running_var.astype(np.float64)


class AbsoluteWeight(TextbookBatchNorm):
    """Takes the weight's magnitude: written for weights that begin at 1."""

    caught_by = "output in training"

    def affine(self, x_hat: Array) -> Array:
        weight, self.weight = self.weight, None if self.weight is None else np.abs(self.weight)
        try:
            return super().affine(x_hat)
        finally:
            self.weight = weight


class OnePlusWeight(TextbookBatchNorm):
    """Scales by 1 + weight, as layers do whose weight begins at 0."""

    caught_by = "output in training"

    def affine(self, x_hat: Array) -> Array:
        return super().affine(x_hat) + (0 if self.weight is None else x_hat)


class ZeroWeightIsNone(TextbookBatchNorm):
    """Tests ``if weight`` for ``is not None``: a weight of 0 scales by 1."""

    caught_by = "weights of 0"

    def affine(self, x_hat: Array) -> Array:
        weight = self.weight
        if weight is not None:
            self.weight = np.where(weight == 0, 1, weight).astype(weight.dtype)
        try:
            return super().affine(x_hat)
        finally:
            self.weight = weight


class BiasNormalised(TextbookBatchNorm):
    """Adds the bias before the division by the standard deviation."""

    caught_by = "output in training"

    def forward(self, x: Array, training: bool) -> Array:
        bias = self.bias
        y = super().forward(x, training)
        if bias is None:
            return y
        with np.errstate(all="ignore"):
            moved: Array = (y + along(bias * (self.cache.rstd - 1), y)).astype(x.dtype)
            return moved


class ClipsOutput(TextbookBatchNorm):
    """Clips the output to ±6, as for eight bits."""

    caught_by = "many values a channel"

    def affine(self, x_hat: Array) -> Array:
        return super().affine(x_hat).clip(-6, 6)


class VarianceFloor(TextbookBatchNorm):
    """Keeps the variance above 1e-4, for stability."""

    caught_by = "tiny variance, eps decides"

    def rstd(self, var: Array) -> Array:
        return super().rstd(np.maximum(var, 1e-4))


class MeanNotSubtracted(TextbookBatchNorm):
    """Divides by the standard deviation and does not centre."""

    caught_by = "output in training"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        return 0 * mean, var


class VarianceAboutZero(TextbookBatchNorm):
    """Takes the mean of x² for the variance."""

    caught_by = "output in training"

    def var(self, values: Array, mean: Array) -> Array:
        return super().var(values, 0 * mean)
