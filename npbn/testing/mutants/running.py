"""Mutants whose running statistics or batch counter are wrong."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, TextbookBatchNorm


class BiasedRunningVariance(TextbookBatchNorm):
    """Keeps the variance that it normalised by: Keras, Flax and ONNX do, torch does not."""

    caught_by = "running statistics"

    def stored_var(self, var: Array, values: Array) -> Array:
        return var


class RowsInUnbiasedVariance(TextbookBatchNorm):
    """Makes the variance unbiased by N / (N − 1) where N·L values were seen."""

    caught_by = "rank 3: (N, C, L)"

    def stored_var(self, var: Array, values: Array) -> Array:
        return var * len(values) / (len(values) - 1)


class RunningStd(TextbookBatchNorm):
    """Averages the standard deviation into ``running_var``."""

    caught_by = "running statistics"

    def stored_var(self, var: Array, values: Array) -> Array:
        std: Array = np.sqrt(super().stored_var(var, values))
        return std


class MomentumReversed(TextbookBatchNorm):
    """Takes momentum for the weight of the old value, as Keras, Flax and ONNX define it."""

    caught_by = "running statistics"

    def factor(self) -> float:
        return super().factor() if self.momentum is None else 1 - self.momentum


class MomentumNoneIsTenth(TextbookBatchNorm):
    """Takes ``momentum=None`` for the default of 0.1."""

    caught_by = "momentum None averages all batches"

    def factor(self) -> float:
        return 0.1 if self.momentum is None else self.momentum


class MomentumZeroIsNone(TextbookBatchNorm):
    """Tests ``if momentum`` for ``is not None``, and so averages where it should stand still."""

    caught_by = "momentum 0, 1 and outside"

    def factor(self) -> float:
        return self.momentum or 1 / self.num_batches_tracked


class AverageLagsBehind(TextbookBatchNorm):
    """With ``momentum=None``, divides by the count from before this batch."""

    caught_by = "momentum None averages all batches"

    def factor(self) -> float:
        before = max(self.num_batches_tracked - 1, 1)
        return 1 / before if self.momentum is None else self.momentum


class FirstBatchReplaces(TextbookBatchNorm):
    """Starts the running statistics with the first batch's, as debiased averages do."""

    caught_by = "running statistics"

    def factor(self) -> float:
        return 1.0 if self.num_batches_tracked == 1 else super().factor()


class NeverUpdated(TextbookBatchNorm):
    """Updates local names, ``running_mean = ...``, that nobody reads."""

    caught_by = "running statistics"

    def update(self, mean: Array, var: Array) -> None:
        pass


class UpdatedInEval(TextbookBatchNorm):
    """Updates the running statistics in evaluation too."""

    caught_by = "evaluation leaves the running statistics"

    def tracks(self, training: bool) -> bool:
        return self.running_mean is not None


class EmptyBatchCounts(TextbookBatchNorm):
    """Lets mean 0 and variance 0 of an empty batch into the running statistics."""

    caught_by = "an empty batch changes no statistics"

    def track(self, values: Array) -> None:
        super().track(values)
        if self.count(values) == 0:
            nothing = np.zeros(self.num_features)
            self.update(nothing, nothing)


class RunningVarianceWithEps(TextbookBatchNorm):
    """Averages var + eps instead of var."""

    caught_by = "running statistics"

    def stored_var(self, var: Array, values: Array) -> Array:
        return super().stored_var(var, values) + self.eps


class RunningVarianceAboutRunningMean(TextbookBatchNorm):
    """Averages the mean square distance to the running mean."""

    caught_by = "running statistics"

    def track(self, values: Array) -> None:
        self.count_batch(values)
        if self.count(values) > 0:
            assert self.running_mean is not None
            mean = self.mean(values)
            var = self.var(values, self.running_mean.astype(np.float64))
            self.update(mean, self.stored_var(var, values))


class MomentumOfTheMeanAlone(TextbookBatchNorm):
    """Averages the variance by 0.1 whatever the momentum is."""

    caught_by = "running statistics"

    def update(self, mean: Array, var: Array) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean = self.mix(self.running_mean, mean, self.factor())
        self.running_var = self.mix(self.running_var, var, 0.1)


class UpdatesTwice(TextbookBatchNorm):
    """Updates in the layer and in the function that it calls."""

    caught_by = "running statistics"

    def update(self, mean: Array, var: Array) -> None:
        super().update(mean, var)
        super().update(mean, var)


class MomentumClamped(TextbookBatchNorm):
    """Takes the momentum for a number in [0, 1], and makes it one."""

    caught_by = "momentum 0, 1 and outside"

    def factor(self) -> float:
        return min(max(super().factor(), 0), 1)


class MomentumOneIgnored(TextbookBatchNorm):
    """Updates ``if 0 < momentum < 1``: a momentum of 1 should replace."""

    caught_by = "momentum 0, 1 and outside"

    def factor(self) -> float:
        return 0.0 if self.momentum == 1 else super().factor()


class AverageCountsOneMore(TextbookBatchNorm):
    """With ``momentum=None``, divides by one batch too many: the initial values are none."""

    caught_by = "momentum None averages all batches"

    def factor(self) -> float:
        return 1 / (self.num_batches_tracked + 1) if self.momentum is None else self.momentum


class AverageStartsAnew(TextbookBatchNorm):
    """With ``momentum=None``, counts its own batches and not those that were loaded."""

    caught_by = "momentum None averages all batches"

    seen = 0

    def update(self, mean: Array, var: Array) -> None:
        self.seen += 1
        super().update(mean, var)

    def factor(self) -> float:
        return 1 / self.seen if self.momentum is None else self.momentum


class RunningStatisticsShaped(TextbookBatchNorm):
    """Keeps statistics of shape (1, C), as they are broadcast."""

    caught_by = "running statistics"

    def mix(self, old: Array, new: Array, factor: float) -> Array:
        return super().mix(old, new, factor).reshape(1, -1)


class RunningStatisticsWider(TextbookBatchNorm):
    """Keeps statistics in float64 next to parameters in float32."""

    caught_by = "running statistics"

    def mix(self, old: Array, new: Array, factor: float) -> Array:
        return super().mix(old.astype(np.float64), new, factor)


class RunningVarianceClipped(TextbookBatchNorm):
    """Keeps the running variance above 0, which a momentum outside of [0, 1] may leave."""

    caught_by = "momentum 0, 1 and outside"

    def update(self, mean: Array, var: Array) -> None:
        super().update(mean, var)
        assert self.running_var is not None
        self.running_var = np.maximum(self.running_var, 0)


class RunningInFloat16(TextbookBatchNorm):
    """Rounds the statistics of a float16 batch to float16 before they are averaged."""

    caught_by = "float16 input, computed in float32"

    half = False

    def working(self, x: Array) -> Array:
        self.half = x.dtype == np.float16
        return super().working(x)

    def update(self, mean: Array, var: Array) -> None:
        if self.half:
            mean, var = (v.astype(np.float16).astype(np.float64) for v in (mean, var))
        super().update(mean, var)


class RunningInFloat32(TextbookBatchNorm):
    """Rounds the statistics of a float64 batch to float32."""

    caught_by = "running statistics in float64"

    def mix(self, old: Array, new: Array, factor: float) -> Array:
        return super().mix(old, new, factor).astype(np.float32).astype(old.dtype)


class MomentumInFloat32(TextbookBatchNorm):
    """Holds momentum in float32, beside statistics in float64."""

    caught_by = "eps and momentum are held in float64"

    def factor(self) -> float:
        return float(np.float32(super().factor()))


class NanKeptOut(TextbookBatchNorm):
    """Leaves the running statistics alone when the batch's are NaN, and so hides it."""

    caught_by = "NaN and infinity reach gradients and statistics"

    def update(self, mean: Array, var: Array) -> None:
        if np.isfinite(mean).all() and np.isfinite(var).all():
            super().update(mean, var)
