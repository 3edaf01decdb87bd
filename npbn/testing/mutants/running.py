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


class EmptyBatchSpoils(TextbookBatchNorm):
    """Lets the NaN mean of an empty batch into the running statistics: a data set's last shard."""

    def track(self, values):
        super().track(values)
        if self.count(values) == 0:
            mean = self.mean(values)
            self.update(mean, self.var(values, mean))


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
