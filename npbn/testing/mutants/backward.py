"""Mutants whose gradient of the input is wrong."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

import numpy as np

from npbn.testing.textbook import Array, Cache, Gradients, TextbookBatchNorm


class NoMeanTerm(TextbookBatchNorm):
    """Omits the gradient through the mean."""

    caught_by = "gradient of the input, training"

    def mean_term(self, g: Array) -> Array | float:
        return 0.0


class NoVarianceTerm(TextbookBatchNorm):
    """Omits the gradient through the variance."""

    caught_by = "gradient of the input, training"

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        return 0.0


class VarianceTermSign(TextbookBatchNorm):
    """Adds the variance's term: the minus of d(var + eps)^(−1/2) was lost."""

    caught_by = "gradient of the input, training"

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        return -super().var_term(g, cache)


class ConstantStatistics(TextbookBatchNorm):
    """Goes backward in training as in evaluation: the statistics were detached."""

    caught_by = "gradient of the input, training"

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        return super().input_gradient(g, cache._replace(by_batch=False))


class EvalBackwardAsTraining(TextbookBatchNorm):
    """Goes backward in evaluation as in training, through statistics that were constants."""

    caught_by = "gradient of the input, evaluation"

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        return super().input_gradient(g, cache._replace(by_batch=True))


class NoEpsInBackward(TextbookBatchNorm):
    """Divides by sqrt(var) in backward, recomputed there without eps."""

    caught_by = "eps in backward"

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        return super().input_gradient(g, cache._replace(rstd=1 / np.sqrt(cache.var)))


class UnbiasedBackward(TextbookBatchNorm):
    """Divides by n − 1 in backward: the gradient of another variance."""

    caught_by = "gradient of the input, training"

    def divisor(self, g: Array) -> int:
        return self.count(g) - 1


class RowsInBackward(TextbookBatchNorm):
    """Divides by N for N·L: code for (N, C) that was widened to images in forward only."""

    caught_by = "rank 3: (N, C, L)"

    def divisor(self, g: Array) -> int:
        return len(g)


class NoWeightInBackward(TextbookBatchNorm):
    """Leaves the weight out of the input's gradient: right as long as it is all ones."""

    caught_by = "gradient of the input, training"

    def scale(self, cache: Cache) -> Array:
        return cache.rstd


class VarianceTermHalved(TextbookBatchNorm):
    """Loses the 2 of the derivative of a square."""

    caught_by = "gradient of the input, training"

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        return super().var_term(g, cache) / 2


class EvalGradientUnscaled(TextbookBatchNorm):
    """Passes the gradient through in evaluation, where the statistics are constants."""

    caught_by = "gradient of the input, evaluation"

    def scale(self, cache: Cache) -> Array:
        scale = super().scale(cache)
        return scale if cache.by_batch else scale / cache.rstd


class EvalGradientWithoutWeight(TextbookBatchNorm):
    """Leaves the weight out of the input's gradient in evaluation."""

    caught_by = "gradient of the input, evaluation"

    def scale(self, cache: Cache) -> Array:
        return super().scale(cache) if cache.by_batch else cache.rstd


class EpsTwiceInBackward(TextbookBatchNorm):
    """Adds eps to a variance that holds it already, in backward."""

    caught_by = "eps in backward"

    def scale(self, cache: Cache) -> Array:
        scale: Array = super().scale(cache) / cache.rstd / np.sqrt(cache.var + 2 * self.eps)
        return scale


class BackwardByRunningVariance(TextbookBatchNorm):
    """Divides by the running standard deviation in the backward pass of training."""

    caught_by = "gradient of the input, training"

    def scale(self, cache: Cache) -> Array:
        scale = super().scale(cache)
        if not cache.by_batch or self.running_var is None:
            return scale
        by_running: Array = (
            scale / cache.rstd / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        )
        return by_running


class UntrackedEvalConstant(TextbookBatchNorm):
    """Goes backward in evaluation without running statistics as if there were some."""

    caught_by = "gradients without running statistics"

    training = True

    def forward(self, x: Array, training: bool) -> Array:
        self.training = training
        return super().forward(x, training)

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        return super().input_gradient(g, cache._replace(by_batch=self.training))


class VarianceTermOfTheMean(TextbookBatchNorm):
    """Takes mean(g) · mean(x̂) for mean(g · x̂), which is 0."""

    caught_by = "gradient of the input, training"

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        return super().var_term(np.ones_like(g) * g.mean(), cache)


class XHatOfTheOutput(TextbookBatchNorm):
    """Finds x̂ again as (y − bias) / weight, and divides by a weight of 0."""

    caught_by = "weights of 0"

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        if self.weight is None:
            return super().var_term(g, cache)
        weight = self.weight.reshape(-1, *(1,) * (g.ndim - 2)).astype(np.float64)
        return super().var_term(g, cache._replace(x_hat=cache.x_hat * weight / weight))


class NanGradientSwallowed(TextbookBatchNorm):
    """Takes NaN in the gradient for zero, and so hides where the loss diverged."""

    caught_by = "NaN in grad_output reaches the gradients"

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        return super().input_gradient(np.nan_to_num(g), cache)


class Float16GradientInFloat32(TextbookBatchNorm):
    """Returns the gradient of a float16 input in float32."""

    caught_by = "float16 input, computed in float32"

    def backward(self, grad_output: Array) -> Gradients:
        grad_input, grad_weight, grad_bias = super().backward(grad_output)
        assert grad_input is not None
        wider = np.promote_types(grad_input.dtype, np.float32)
        return grad_input.astype(wider), grad_weight, grad_bias


class Float64GradientInFloat32(TextbookBatchNorm):
    """Computes the gradient of a float64 input in float32."""

    caught_by = "float64 throughout"

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        narrow = cache._replace(x_hat=cache.x_hat.astype(np.float32))
        return super().input_gradient(g.astype(np.float32), narrow)


class GradientReadsMemoryOrder(TextbookBatchNorm):
    """Reads grad_output's memory as if it were contiguous, and x as it is."""

    caught_by = "any memory layout, rank 2 or higher"

    def backward(self, grad_output: Array) -> Gradients:
        return super().backward(grad_output.ravel(order="K").reshape(grad_output.shape))


class GradientTakenForInputOrder(TextbookBatchNorm):
    """Reads the gradient of images in the order in which the input's memory is."""

    caught_by = "rank 4 in either order, the gradient in another"

    channels_last = False

    def forward(self, x: Array, training: bool) -> Array:
        self.channels_last = x.ndim == 4 and not x.flags.c_contiguous
        return super().forward(x, training)

    def backward(self, grad_output: Array) -> Gradients:
        if self.channels_last and grad_output.flags.c_contiguous:
            n, c, h, w = grad_output.shape
            grad_output = np.moveaxis(grad_output.reshape(n, h, w, c), -1, 1)
        return super().backward(grad_output)
