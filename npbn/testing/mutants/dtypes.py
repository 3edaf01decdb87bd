"""Mutants that handle dtypes, memory layouts, NaN or infinity incorrectly."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, TextbookBatchNorm


class Float16Accumulated(TextbookBatchNorm):
    """Computes float16 in float16: sums overflow at 65504, and squares well before."""

    caught_by = "float16, sums beyond 65504"

    def working(self, x: Array) -> Array:
        return x.copy() if x.dtype == np.float16 else super().working(x)


class Float16ReturnedAsFloat32(TextbookBatchNorm):
    """Forgets to cast float16 back, and so doubles every activation from there on."""

    caught_by = "float16 input, computed in float32"

    def forward(self, x: Array, training: bool) -> Array:
        return super().forward(x.astype(np.float32) if x.dtype == np.float16 else x, training)


class Float64InFloat32(TextbookBatchNorm):
    """Computes float64 in float32: one ``.float()`` too many."""

    caught_by = "float64 throughout"

    def working(self, x: Array) -> Array:
        return super().working(x.astype(np.float32))


class ReadsMemoryOrder(TextbookBatchNorm):
    """Reads memory as if every array were contiguous: a kernel that is handed a bare pointer."""

    caught_by = "any memory layout, rank 2 or higher"

    def working(self, x: Array) -> Array:
        return super().working(x.ravel(order="K").reshape(x.shape))


class SwallowsNan(TextbookBatchNorm):
    """Takes NaN for zero, and so hides where training diverged: ``nan_to_num``, ``nanmean``."""

    caught_by = "NaN and infinity reach the output"

    def working(self, x: Array) -> Array:
        values = super().working(x)
        return np.where(np.isnan(values), 0, values)


class InfinityClamped(TextbookBatchNorm):
    """Clamps the input to finite numbers, and so hides where training diverged."""

    caught_by = "NaN and infinity reach the output"

    def working(self, x: Array) -> Array:
        return super().working(x).clip(-1e37, 1e37)


class Float16Squares(TextbookBatchNorm):
    """Squares float16 in float16, and sums the squares in more."""

    caught_by = "float16 input, computed in float32"

    half = False

    def working(self, x: Array) -> Array:
        self.half = x.dtype == np.float16
        return super().working(x)

    def var(self, values: Array, mean: Array) -> Array:
        if not self.half:
            return super().var(values, mean)
        squares = (values * values).astype(np.float16).astype(np.float64)
        var: Array = self.mean(squares) - mean**2
        return var


class Float64ParametersInFloat32(TextbookBatchNorm):
    """Holds weight and bias in float32 whatever the input is."""

    caught_by = "float64 throughout"

    def affine(self, x_hat: Array) -> Array:
        held = self.weight, self.bias
        self.weight, self.bias = (None if v is None else v.astype(np.float32) for v in held)
        try:
            return super().affine(x_hat)
        finally:
            self.weight, self.bias = held


class EpsInFloat32(TextbookBatchNorm):
    """Holds eps in float32, beside inputs in float64."""

    caught_by = "eps and momentum are held in float64"

    def rstd(self, var: Array) -> Array:
        return 1 / np.sqrt(var + float(np.float32(self.eps)))


class ReadsVectorsAsContiguous(TextbookBatchNorm):
    """Reads weight and bias from where they begin in memory, one next to the other."""

    caught_by = "weights and statistics in any memory layout"

    def affine(self, x_hat: Array) -> Array:
        held = self.weight, self.bias
        self.weight, self.bias = (v if v is None else _in_memory(v) for v in held)
        try:
            return super().affine(x_hat)
        finally:
            self.weight, self.bias = held


class ReadsStatisticsAsContiguous(TextbookBatchNorm):
    """Reads the running statistics from where they begin in memory."""

    caught_by = "weights and statistics in any memory layout"

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        if self.by_batch(training):
            return super().statistics(values, training)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = _in_memory(self.running_mean), _in_memory(self.running_var)
        return mean.astype(np.float64), var.astype(np.float64)


class RefusesReadOnly(TextbookBatchNorm):
    """Asks for a pointer that it may write to, though it only reads."""

    caught_by = "any memory layout, rank 2 or higher"

    def working(self, x: Array) -> Array:
        if not x.flags.writeable:
            raise ValueError("buffer source array is read-only")
        return super().working(x)


class RefusesStrides(TextbookBatchNorm):
    """Asks for contiguous memory instead of copying what is not."""

    caught_by = "any memory layout, rank 2 or higher"

    def working(self, x: Array) -> Array:
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            raise ValueError("expected a contiguous array")
        return super().working(x)


def _in_memory(vector: Array) -> Array:
    """Return as many numbers as the vector has, from the start of its memory."""
    base = vector if vector.base is None else vector.base
    return base.reshape(-1)[: len(vector)]
