"""Mutants whose running statistics or batch counter are wrong."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import TextbookBatchNorm


class BiasedRunningVariance(TextbookBatchNorm):
    """Keeps the variance that it normalised by: Keras, Flax and ONNX do, torch does not."""

    def stored_var(self, var, values):
        return var


class RowsInUnbiasedVariance(TextbookBatchNorm):
    """Makes the variance unbiased by N / (N − 1) where N·L values were seen."""

    def stored_var(self, var, values):
        return var * len(values) / (len(values) - 1)


class RunningStd(TextbookBatchNorm):
    """Averages the standard deviation into ``running_var``."""

    def stored_var(self, var, values):
        return np.sqrt(super().stored_var(var, values))


class MomentumReversed(TextbookBatchNorm):
    """Takes momentum for the weight of the old value, as Keras, Flax and ONNX define it."""

    def factor(self):
        return super().factor() if self.momentum is None else 1 - self.momentum


class MomentumNoneIsTenth(TextbookBatchNorm):
    """Takes ``momentum=None`` for the default of 0.1."""

    def factor(self):
        return 0.1 if self.momentum is None else self.momentum


class MomentumZeroIsNone(TextbookBatchNorm):
    """Tests ``if momentum`` for ``is not None``, and so averages where it should stand still."""

    def factor(self):
        return self.momentum or 1 / self.num_batches_tracked


class AverageLagsBehind(TextbookBatchNorm):
    """With ``momentum=None``, divides by the count from before this batch."""

    def factor(self):
        before = max(self.num_batches_tracked - 1, 1)
        return 1 / before if self.momentum is None else self.momentum


class FirstBatchReplaces(TextbookBatchNorm):
    """Starts the running statistics with the first batch's, as debiased averages do."""

    def factor(self):
        return 1.0 if self.num_batches_tracked == 1 else super().factor()


class NeverUpdated(TextbookBatchNorm):
    """Updates local names, ``running_mean = ...``, that nobody reads."""

    def update(self, mean, var):
        pass


class UpdatedInEval(TextbookBatchNorm):
    """Updates the running statistics in evaluation too."""

    def tracks(self, training):
        return self.running_mean is not None


class EmptyBatchCounts(TextbookBatchNorm):
    """Lets mean 0 and variance 0 of an empty batch into the running statistics."""

    def track(self, values):
        super().track(values)
        if self.count(values) == 0:
            nothing = np.zeros(self.num_features)
            self.update(nothing, nothing)


# -- counter ------------------------------------------------------------------------------------


class NeverCounts(TextbookBatchNorm):
    """Leaves ``num_batches_tracked`` as it was, unless it is needed for ``momentum=None``."""

    def track(self, values):
        before = self.num_batches_tracked
        super().track(values)
        if self.momentum is not None:
            self.num_batches_tracked = before


class CountsInEval(TextbookBatchNorm):
    """Counts the batches of evaluation too."""

    def forward(self, x, training):
        y = super().forward(x, training)
        if not training and self.running_mean is not None:
            self.num_batches_tracked += 1
        return y


class CountsSamples(TextbookBatchNorm):
    """Counts samples for batches."""

    def count_batch(self, values):
        self.num_batches_tracked += len(values)


class SkipsEmptyInCount(TextbookBatchNorm):
    """Returns early for an empty batch, which is a batch all the same."""

    def track(self, values):
        if self.count(values) > 0:
            super().track(values)


class CountsBeforeRefusing(TextbookBatchNorm):
    """Counts the batch first, and then refuses it: torch itself does."""

    def refuse(self, x, training):
        if self.tracks(training):
            self.num_batches_tracked += 1
        super().refuse(x, training)

    def count_batch(self, values):
        pass


# -- more ways to wrong statistics ----------------------------------------------------------------


class RunningVarianceWithEps(TextbookBatchNorm):
    """Averages var + eps, the number that was at hand."""

    def stored_var(self, var, values):
        return super().stored_var(var, values) + self.eps


class RunningVarianceAboutRunningMean(TextbookBatchNorm):
    """Averages the mean square distance to the running mean."""

    def track(self, values):
        self.count_batch(values)
        if self.count(values) > 0:
            mean = self.mean(values)
            var = self.var(values, self.running_mean.astype(np.float64))
            self.update(mean, self.stored_var(var, values))


class MomentumOfTheMeanAlone(TextbookBatchNorm):
    """Averages the variance by 0.1 whatever the momentum is."""

    def update(self, mean, var):
        self.running_mean = self.mix(self.running_mean, mean, self.factor())
        self.running_var = self.mix(self.running_var, var, 0.1)


class UpdatesTwice(TextbookBatchNorm):
    """Updates in the layer and in the function that it calls."""

    def update(self, mean, var):
        super().update(mean, var)
        super().update(mean, var)


class MomentumClamped(TextbookBatchNorm):
    """Takes the momentum for a number in [0, 1], and makes it one."""

    def factor(self):
        return min(max(super().factor(), 0), 1)


class MomentumOneIgnored(TextbookBatchNorm):
    """Updates ``if 0 < momentum < 1``: a momentum of 1 should replace."""

    def factor(self):
        return 0.0 if self.momentum == 1 else super().factor()


class AverageCountsOneMore(TextbookBatchNorm):
    """With ``momentum=None``, divides by one batch too many: the initial values are none."""

    def factor(self):
        return 1 / (self.num_batches_tracked + 1) if self.momentum is None else self.momentum


class AverageStartsAnew(TextbookBatchNorm):
    """With ``momentum=None``, counts its own batches and not those that were loaded."""

    seen = 0

    def update(self, mean, var):
        self.seen += 1
        super().update(mean, var)

    def factor(self):
        return 1 / self.seen if self.momentum is None else self.momentum


class RunningStatisticsShaped(TextbookBatchNorm):
    """Keeps statistics of shape (1, C), as they are broadcast."""

    def mix(self, old, new, factor):
        return super().mix(old, new, factor).reshape(1, -1)


class RunningStatisticsWider(TextbookBatchNorm):
    """Keeps statistics in float64 next to parameters in float32."""

    def mix(self, old, new, factor):
        return super().mix(old.astype(np.float64), new, factor)


class RunningVarianceClipped(TextbookBatchNorm):
    """Keeps the running variance above 0, which a momentum outside of [0, 1] may leave."""

    def update(self, mean, var):
        super().update(mean, var)
        self.running_var = np.maximum(self.running_var, 0)


class RunningInFloat16(TextbookBatchNorm):
    """Rounds the statistics of a float16 batch to float16 before they are averaged."""

    half = False

    def working(self, x):
        self.half = x.dtype == np.float16
        return super().working(x)

    def update(self, mean, var):
        if self.half:
            mean, var = (v.astype(np.float16).astype(np.float64) for v in (mean, var))
        super().update(mean, var)


class RunningInFloat32(TextbookBatchNorm):
    """Rounds the statistics of a float64 batch to float32."""

    def mix(self, old, new, factor):
        return super().mix(old, new, factor).astype(np.float32).astype(old.dtype)


class MomentumInFloat32(TextbookBatchNorm):
    """Holds momentum in float32, beside statistics in float64."""

    def factor(self):
        return float(np.float32(super().factor()))


class NanKeptOut(TextbookBatchNorm):
    """Leaves the running statistics alone when the batch's are NaN, and so hides it."""

    def update(self, mean, var):
        if np.isfinite(mean).all() and np.isfinite(var).all():
            super().update(mean, var)
