"""Mutants whose batch counter is wrong."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

from npbn.testing.textbook import Array, TextbookBatchNorm


class NeverCounts(TextbookBatchNorm):
    """Leaves ``num_batches_tracked`` as it was, unless it is needed for ``momentum=None``."""

    caught_by = "num_batches_tracked"

    def track(self, values: Array) -> None:
        before = self.num_batches_tracked
        super().track(values)
        if self.momentum is not None:
            self.num_batches_tracked = before


class CountsInEval(TextbookBatchNorm):
    """Counts the batches of evaluation too."""

    caught_by = "num_batches_tracked"

    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        if not training and self.running_mean is not None:
            self.num_batches_tracked += 1
        return y


class CountsSamples(TextbookBatchNorm):
    """Counts samples for batches."""

    caught_by = "num_batches_tracked"

    def count_batch(self, values: Array) -> None:
        self.num_batches_tracked += len(values)


class SkipsEmptyInCount(TextbookBatchNorm):
    """Returns early for an empty batch, which is a batch all the same."""

    caught_by = "an empty batch changes no statistics"

    def track(self, values: Array) -> None:
        if self.count(values) > 0:
            super().track(values)


class CountsBeforeRefusing(TextbookBatchNorm):
    """Counts the batch first, and then refuses it: torch itself does."""

    caught_by = "refusals change nothing"

    def refuse(self, x: Array, training: bool) -> None:
        if self.tracks(training):
            self.num_batches_tracked += 1
        super().refuse(x, training)

    def count_batch(self, values: Array) -> None:
        pass
