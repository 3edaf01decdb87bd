"""Mutants whose output is wrong, or that take what they should refuse, or refuse what is right."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import math

import numpy as np

from npbn.testing.textbook import TextbookBatchNorm, along


class UnbiasedNormalisation(TextbookBatchNorm):
    """Normalises by the unbiased variance: ``torch.var``'s default, ``ddof=1``."""

    def var(self, values, mean):
        return super().var(values, mean) * self.count(values) / (self.count(values) - 1)

    def stored_var(self, var, values):
        return var


class EpsOutsideRoot(TextbookBatchNorm):
    """Divides by sqrt(var) + eps, as Adam does: seen where var is not far above eps."""

    def rstd(self, var):
        return 1 / (np.sqrt(var) + self.eps)


class EpsAsFloor(TextbookBatchNorm):
    """Takes max(var, eps) for var + eps, a "guard against division by zero"."""

    def rstd(self, var):
        return 1 / np.sqrt(np.maximum(var, self.eps))


class HardCodedEps(TextbookBatchNorm):
    """Leaves its argument unread: a converter that drops an attribute equal to its own default."""

    def rstd(self, var):
        return 1 / np.sqrt(var + 1e-5)


class NoRoot(TextbookBatchNorm):
    """Divides by the variance, as if it had been given standard deviations."""

    def rstd(self, var):
        return 1 / (var + self.eps)


class MomentOfSquares(TextbookBatchNorm):
    """Takes E[x²] − E[x]² in float32: one pass over memory, and cancellation when |mean| ≫ std."""

    def var(self, values, mean):
        values = values.astype(np.float32)
        return self.mean(values * values) - self.mean(values) ** 2


class WithinSampleVariance(TextbookBatchNorm):
    """Averages each sample's own variance: merging parts without the spread of their means."""

    def var(self, values, mean):
        if values.ndim == 2:
            return super().var(values, mean)
        inner = tuple(range(2, values.ndim))
        own_mean = values.sum(inner, keepdims=True) / math.prod(values.shape[2:])
        return self.mean((values - own_mean) ** 2)


class ChannelsLast(TextbookBatchNorm):
    """Sums over all axes but the last, with ``reshape(-1, C)``: right for NHWC and rank 2 alone."""

    def total(self, values):
        return values.reshape(-1, self.num_features).sum(axis=0)


class BiasBeforeWeight(TextbookBatchNorm):
    """Adds the bias first, (x̂ + bias) · weight: a wrong folding into the next layer."""

    def affine(self, x_hat):
        y = x_hat if self.bias is None else x_hat + along(self.bias, x_hat)
        return y if self.weight is None else y * along(self.weight, y)


class AffineBothOrNone(TextbookBatchNorm):
    """Leaves the weight out when there is no bias, or the other way round: one ``affine`` flag."""

    def affine(self, x_hat):
        return x_hat if self.weight is None or self.bias is None else super().affine(x_hat)


class RunningStatisticsInTraining(TextbookBatchNorm):
    """Normalises by the running statistics in training: Keras's ``trainable=False`` confusion."""

    def statistics(self, values, training):
        return super().statistics(values, training=False)


class BatchStatisticsInEval(TextbookBatchNorm):
    """Normalises by the batch in evaluation: a mode flag that never arrives."""

    def statistics(self, values, training):
        return super().statistics(values, training=True)


class UntrackedEvalIsIdentity(TextbookBatchNorm):
    """Without running statistics, evaluates with their initial values, mean 0 and variance 1."""

    def statistics(self, values, training):
        if self.running_mean is None and not training:
            return np.zeros(self.num_features), np.ones(self.num_features)
        return super().statistics(values, training)


class AcceptsOneValue(TextbookBatchNorm):
    """Trains on one value per channel: the output is the bias, the running variance NaN."""

    def refuse(self, x, training):
        pass


class RefusesOneSample(TextbookBatchNorm):
    """Looks at N where N·L counts, and so refuses to train on one image."""

    def refuse(self, x, training):
        if self.by_batch(training) and len(x) == 1:
            raise ValueError("expected more than 1 sample")


# -- dtypes, layouts, NaN -----------------------------------------------------------------------


class Float16Accumulated(TextbookBatchNorm):
    """Computes float16 in float16: sums overflow at 65504, and squares well before."""

    def working(self, x):
        return x.copy() if x.dtype == np.float16 else super().working(x)


class Float16ReturnedAsFloat32(TextbookBatchNorm):
    """Forgets to cast float16 back, and so doubles every activation from there on."""

    def forward(self, x, training):
        return super().forward(x.astype(np.float32) if x.dtype == np.float16 else x, training)


class Float64InFloat32(TextbookBatchNorm):
    """Computes float64 in float32: one ``.float()`` too many."""

    def working(self, x):
        return super().working(x.astype(np.float32))


class ReadsMemoryOrder(TextbookBatchNorm):
    """Reads memory as if every array were contiguous: a kernel that is handed a bare pointer."""

    def working(self, x):
        return super().working(x.ravel(order="K").reshape(x.shape))


class SwallowsNan(TextbookBatchNorm):
    """Takes NaN for zero, and so hides where training diverged: ``nan_to_num``, ``nanmean``."""

    def working(self, x):
        values = super().working(x)
        return np.where(np.isnan(values), 0, values)
