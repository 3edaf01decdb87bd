"""Mutants whose gradients of weight and bias are wrong."""

# ruff: noqa: D102 - an override does what the textbook says of the method, but for one mistake

from npbn.testing.textbook import Array, Cache, Gradients, TextbookBatchNorm


class WeightGradientUncentred(TextbookBatchNorm):
    """Sums g · x · rstd for the weight's gradient, without the mean."""

    caught_by = "gradient of the weight, training"

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        grad: Array = super().weight_gradient(g, cache) + self.total(g) * cache.mean * cache.rstd
        return grad


class WeightGradientUnscaled(TextbookBatchNorm):
    """Sums g · (x − mean) for the weight's gradient, without rstd."""

    caught_by = "gradient of the weight, training"

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        grad: Array = super().weight_gradient(g, cache) / cache.rstd
        return grad


class WeightGradientAveraged(TextbookBatchNorm):
    """Averages the weight's gradient over the batch, which the loss has done already."""

    caught_by = "gradient of the weight, training"

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        return super().weight_gradient(g, cache) / max(self.count(g), 1)


class BiasGradientAveraged(TextbookBatchNorm):
    """Averages the bias's gradient over the batch, which the loss has done already."""

    caught_by = "gradient of the bias, training"

    def bias_gradient(self, g: Array) -> Array:
        return super().bias_gradient(g) / max(self.count(g), 1)


class WeightGradientWeighted(TextbookBatchNorm):
    """Sums g · weight · x̂ for the weight's gradient: g was scaled too early."""

    caught_by = "gradient of the weight, training"

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        grad: Array = super().weight_gradient(g, cache) * self.weight
        return grad


class BiasGradientWeighted(TextbookBatchNorm):
    """Sums g · weight for the bias's gradient: g was scaled too early."""

    caught_by = "gradient of the bias, training"

    def bias_gradient(self, g: Array) -> Array:
        total = super().bias_gradient(g)
        return total if self.weight is None else total * self.weight


class EvalWeightGradientIsZero(TextbookBatchNorm):
    """Takes evaluation for frozen, and gives the weight no gradient."""

    caught_by = "gradient of the weight, evaluation"

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        grad = super().weight_gradient(g, cache)
        return grad if cache.by_batch else 0 * grad


class EvalBiasGradientIsZero(TextbookBatchNorm):
    """Takes evaluation for frozen, and gives the bias no gradient."""

    caught_by = "gradient of the bias, evaluation"

    def bias_gradient(self, g: Array) -> Array:
        grad = super().bias_gradient(g)
        return grad if self.cache.by_batch else 0 * grad


class ParametersSwapped(TextbookBatchNorm):
    """Returns the gradients of bias and weight, in this order."""

    caught_by = "gradient of the weight, training"

    def backward(self, grad_output: Array) -> Gradients:
        grad_input, weight, bias = super().backward(grad_output)
        return (
            (grad_input, weight, bias)
            if weight is None or bias is None
            else (
                grad_input,
                bias,
                weight,
            )
        )
