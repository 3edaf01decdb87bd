"""Mutants that are right on small and round sizes: tails, blocks, narrow counters."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, Cache, TextbookBatchNorm, along


class ChannelTailUnscaled(TextbookBatchNorm):
    """Scales eight channels at a time, and leaves those beyond the last eight as they are."""

    caught_by = "up to 70 channels and 300 samples"

    def affine(self, x_hat: Array) -> Array:
        y, whole = super().affine(x_hat), self.num_features // 8 * 8
        if whole:
            y[:, whole:] = x_hat[:, whole:]
        return y


class ChannelTailUncentred(TextbookBatchNorm):
    """Sums eight channels at a time, and takes 0 for the means of the rest."""

    caught_by = "up to 70 channels and 300 samples"

    def mean(self, values: Array) -> Array:
        mean, whole = super().mean(values), self.num_features // 8 * 8
        if whole:
            mean[whole:] = 0
        return mean


class PositionTailDropped(TextbookBatchNorm):
    """Sums eight positions at a time, and drops those beyond the last eight."""

    caught_by = "up to 70 channels of 256 positions"

    def total(self, values: Array) -> Array:
        whole = values.shape[-1] // 8 * 8
        return super().total(values[..., :whole] if values.ndim > 2 and whole else values)


class RowTailDropped(TextbookBatchNorm):
    """Sums four samples at a time, and drops those beyond the last four."""

    caught_by = "output in training"

    def total(self, values: Array) -> Array:
        return super().total(values[: len(values) // 4 * 4 or None])


class RowBlocksOf256(TextbookBatchNorm):
    """Sums blocks of 256 samples, and drops a last one that is not full."""

    caught_by = "many values a channel"

    def total(self, values: Array) -> Array:
        return super().total(values[: len(values) // 256 * 256 or None])


class FirstBlockOnly(TextbookBatchNorm):
    """Takes the statistics of the first 256 samples for those of all."""

    caught_by = "many values a channel"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        return super().statistics(values[:256] if self.by_batch(training) else values, training)


class CountInUint8(TextbookBatchNorm):
    """Counts the values of a channel in eight bits."""

    caught_by = "many values a channel"

    def count(self, values: Array) -> int:
        return super().count(values) % 256 or super().count(values)


class CountInUint16(TextbookBatchNorm):
    """Counts the values of a channel in sixteen bits."""

    caught_by = "100,000 samples"

    def count(self, values: Array) -> int:
        return super().count(values) % 65536 or super().count(values)


class BlocksAveragedAlike(TextbookBatchNorm):
    """Averages the means of blocks of 256 samples, the last and shorter one with equal weight."""

    caught_by = "many values a channel"

    def mean(self, values: Array) -> Array:
        blocks = [values[i : i + 256] for i in range(0, max(len(values), 1), 256)]
        mean: Array = np.mean(
            [super(BlocksAveragedAlike, self).mean(block) for block in blocks], axis=0
        )
        return mean


class WeightModulo32(TextbookBatchNorm):
    """Gives each of 32 threads one weight, for all of its channels."""

    caught_by = "up to 70 channels and 300 samples"

    def affine(self, x_hat: Array) -> Array:
        weight = self.weight
        try:
            if weight is not None:
                self.weight = weight[np.arange(self.num_features) % 32]
            return super().affine(x_hat)
        finally:
            self.weight = weight


class BiasModulo64(TextbookBatchNorm):
    """Gives each of 64 threads one bias, for all of its channels."""

    caught_by = "up to 70 channels and 300 samples"

    def affine(self, x_hat: Array) -> Array:
        bias = self.bias
        try:
            if bias is not None:
                self.bias = bias[np.arange(self.num_features) % 64]
            return super().affine(x_hat)
        finally:
            self.bias = bias


class FirstChannelsTracked(TextbookBatchNorm):
    """Updates the running statistics of the first 64 channels: one block of threads, no loop."""

    caught_by = "up to 70 channels and 300 samples"

    def mix(self, old: Array, new: Array, factor: float) -> Array:
        mixed = super().mix(old, new, factor)
        mixed[64:] = old[64:]
        return mixed


class GradientOfFirstPositions(TextbookBatchNorm):
    """Sums at most 64 positions for the gradients of weight and bias."""

    caught_by = "up to 70 channels of 256 positions"

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        return (
            self.total(g[:, :, :64] * cache.x_hat[:, :, :64])
            if g.ndim > 2
            else (super().weight_gradient(g, cache))
        )

    def bias_gradient(self, g: Array) -> Array:
        return super().bias_gradient(g[:, :, :64] if g.ndim > 2 else g)


class HeightForWidth(TextbookBatchNorm):
    """Takes rows for columns in backward, unseen on square images."""

    caught_by = "rank 4: (N, C, H, W)"

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        if g.ndim == 4:
            swapped = np.swapaxes(cache.x_hat, 2, 3).reshape(g.shape)
            cache = cache._replace(x_hat=swapped)
        return super().var_term(g, cache)


class DepthIgnored(TextbookBatchNorm):
    """Takes a volume's first image for all of its depth."""

    caught_by = "rank 5: (N, C, D, H, W)"

    def total(self, values: Array) -> Array:
        if values.ndim == 5 and values.shape[2]:
            return super().total(np.broadcast_to(values[:, :, :1], values.shape))
        return super().total(values)


class SquareBatchTransposed(TextbookBatchNorm):
    """Finds the channels by their number, and takes axis 0 where N = C."""

    caught_by = "output in training"

    def affine(self, x_hat: Array) -> Array:
        if x_hat.ndim == 2 and x_hat.shape[0] == x_hat.shape[1]:
            y: Array = super().affine(x_hat.T).T
            return y
        return super().affine(x_hat)


class RefusesEmptyInEval(TextbookBatchNorm):
    """Refuses an empty batch in evaluation, such as the last shard of a data set."""

    caught_by = "no value a channel in evaluation"

    def refuse(self, x: Array, training: bool) -> None:
        super().refuse(x, training)
        if not training and x.size == 0:
            raise ValueError("expected values, got none")


class EmptyLosesItsShape(TextbookBatchNorm):
    """Returns an array of shape (0, C) for every empty batch."""

    caught_by = "samples without positions in evaluation"

    def forward(self, x: Array, training: bool) -> Array:
        y = super().forward(x, training)
        return y.reshape(0, self.num_features) if x.size == 0 else y


class OneValueIsItsMean(TextbookBatchNorm):
    """Takes a single value for its own mean in evaluation too, and returns the bias."""

    caught_by = "one value a channel in evaluation"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        mean, var = super().statistics(values, training)
        if values.size == self.num_features:
            mean = values.reshape(self.num_features)
        return mean, var


class RefusesOneValueInEval(TextbookBatchNorm):
    """Refuses one value per channel in evaluation, where nothing is measured."""

    caught_by = "one value a channel in evaluation"

    def refuse(self, x: Array, training: bool) -> None:
        if self.count(x) == 1:
            raise ValueError("expected more than 1 value per channel")


class PositionsAsChannels(TextbookBatchNorm):
    """Scales the positions instead of the channels where there are as many."""

    caught_by = "rank 3: (N, C, L)"

    def affine(self, x_hat: Array) -> Array:
        if x_hat.ndim == 3 and x_hat.shape[1] == x_hat.shape[2]:
            y: Array = super().affine(x_hat.swapaxes(1, 2)).swapaxes(1, 2)
            return y
        return super().affine(x_hat)


class RowsBeyond65535(TextbookBatchNorm):
    """Leaves samples beyond 65535, a grid's largest dimension, as they came."""

    caught_by = "100,000 samples"

    def affine(self, x_hat: Array) -> Array:
        y = super().affine(x_hat)
        y[65535:] = x_hat[65535:]
        return y


class ScalarWeight(TextbookBatchNorm):
    """Scales by the first channel's weight alone from nine channels on."""

    caught_by = "up to 70 channels and 300 samples"

    def affine(self, x_hat: Array) -> Array:
        y = super().affine(x_hat)
        if self.num_features > 8 and self.weight is not None:
            bias = 0 if self.bias is None else along(self.bias, x_hat)
            y = x_hat * self.weight[0] + bias
        return y
