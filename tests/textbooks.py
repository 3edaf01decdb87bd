"""BatchNorm in other right ways than npbn.testing.textbook, in the dtype of the input."""

import numpy as np

from npbn.testing.textbook import TextbookBatchNorm, along


def wide(dtype):
    """Return the dtype to compute in: float32 for float16."""
    return np.promote_types(dtype, np.float32)


class TwoPasses(TextbookBatchNorm):
    """The two passes of the textbook, in float32 for float32, with NumPy's own mean and var."""

    def working(self, x):
        return x.astype(wide(x.dtype))

    def total(self, values):
        return np.sum(values, axis=(0, *range(2, values.ndim)), dtype=values.dtype)

    def var(self, values, mean):
        return np.var(values, axis=(0, *range(2, values.ndim)))


class Folded(TwoPasses):
    """One multiplication and one addition for each output, as kernels do it."""

    @np.errstate(all="ignore")
    def forward(self, x, training):
        y = super().forward(x, training)
        cache, values = self.cache, self.working(x)
        scale = cache.rstd if self.weight is None else cache.rstd * self.weight
        shift = -cache.mean * scale if self.bias is None else self.bias - cache.mean * scale
        return (values * along(scale, x) + along(shift, x)).astype(y.dtype)


class Welford(TwoPasses):
    """Mean and variance by Welford's updates, sample by sample, positions merged at the end."""

    def var(self, values, mean):
        mean, m2, count = np.zeros(values.shape[1:]), np.zeros(values.shape[1:]), 0
        for row in values:
            count += 1
            delta = row - mean
            mean = mean + delta / count
            m2 = m2 + delta * (row - mean)
        positions = tuple(range(1, mean.ndim))
        spread = mean - mean.mean(positions, keepdims=True) if positions else 0 * mean
        return (m2 + count * spread**2).mean(positions) / count


class StepByStep(TwoPasses):
    """Backward as the chain rule has it, one node of the graph after the other."""

    def input_gradient(self, g, cache):
        g_hat = g if self.weight is None else g * along(self.weight, g)
        if not cache.by_batch:
            return g_hat * along(cache.rstd, g)
        n = self.count(g)
        centred = cache.x_hat / along(cache.rstd, g)
        g_var = self.total(g_hat * centred) * -0.5 * cache.rstd**3
        g_centred = g_hat * along(cache.rstd, g) + along(g_var * 2 / n, g) * centred
        return g_centred - along(self.total(g_centred) / n, g)


TEXTBOOKS = (TwoPasses, Folded, Welford, StepByStep)
