"""BatchNorm as in a textbook: correct, short and slow, in small methods to override.

It is a class of the plain protocol (:func:`npbn.testing.protocol.class_implementation`), and
the correct one of which every class in :mod:`npbn.testing.mutants` gets one thing wrong.
"""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Gradients = tuple[Array | None, Array | None, Array | None]


class Cache(NamedTuple):
    """What backward needs from the forward pass, in float64.

    Attributes
    ----------
    by_batch : bool
        Whether mean and var are the batch's, through which gradients flow, or constants.
    mean, var, rstd : ndarray, shape (C,)
        What normalised.
    x_hat : ndarray, shape of x
    """

    by_batch: bool
    mean: Array
    var: Array
    rstd: Array
    x_hat: Array


class TextbookBatchNorm:
    r"""Batch normalisation over axis 1, computed in float64 whatever the input's dtype.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta

    with the mean and the biased variance of the batch or, in evaluation, the running ones [1]_.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
    momentum : float or None
        Weight of the new value in the running statistics; None averages all batches.

    Attributes
    ----------
    weight, bias : ndarray, shape (C,), or None
    running_mean, running_var : ndarray, shape (C,), or None
        None: nothing is tracked, and the batch normalises in evaluation too.
    num_batches_tracked : int or None

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167, algorithms 1 and 2; the
       gradients are those of section 3, simplified.

    Examples
    --------
    >>> import numpy as np
    >>> layer = TextbookBatchNorm(1, eps=1.0)
    >>> layer.forward(np.array([[0.0], [0.0], [0.0], [4.0]]), training=True).ravel()
    array([-0.5, -0.5, -0.5,  1.5])
    >>> layer.backward(np.array([[0.0], [0.0], [0.0], [4.0]]))[0].ravel()
    array([-0.125, -0.125, -0.125,  0.375])
    """

    # None until the first forward pass, and no backward pass comes before it: not optional.
    cache: Cache = None  # type: ignore[assignment]

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1):
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight: Array | None = np.ones(num_features, np.float32)
        self.bias: Array | None = np.zeros(num_features, np.float32)
        self.running_mean: Array | None = np.zeros(num_features, np.float32)
        self.running_var: Array | None = np.ones(num_features, np.float32)
        self.num_batches_tracked: Any = 0  # or None: nothing is tracked

    # -- forward ----------------------------------------------------------------------------

    @np.errstate(all="ignore")
    def forward(self, x: Array, training: bool) -> Array:
        """Return the output, of the shape and dtype of `x`, shape (N, C, ...).

        Raises
        ------
        ValueError
            `x` has one value per channel, which has no variance to normalise by.
        """
        self.refuse(x, training)
        values = self.working(x)
        mean, var = self.statistics(values, training)
        if self.tracks(training):
            self.track(values)
        rstd = self.rstd(var)
        x_hat = (values - along(mean, x)) * along(rstd, x)
        self.remember(Cache(self.by_batch(training), mean, var, rstd, x_hat))
        return self.affine(x_hat).astype(x.dtype)

    def by_batch(self, training: bool) -> bool:
        """Return whether the batch normalises, rather than the running statistics."""
        return training or self.running_mean is None

    def refuse(self, x: Array, training: bool) -> None:
        """Raise ValueError for a batch that has no variance."""
        if self.by_batch(training) and self.count(x) == 1:
            raise ValueError("expected more than 1 value per channel to normalise by")

    def working(self, x: Array) -> Array:
        """Return a copy in the dtype to compute in."""
        return x.astype(np.float64)

    def statistics(self, values: Array, training: bool) -> tuple[Array, Array]:
        """Return the mean and variance that normalise, shape (C,)."""
        if self.by_batch(training):
            mean = self.mean(values)
            return mean, self.var(values, mean)
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean.astype(np.float64), self.running_var.astype(np.float64)

    def count(self, values: Array) -> int:
        """Return the number of values per channel, N·L."""
        channels: int = values.shape[1]
        return values.size // channels

    def total(self, values: Array) -> Array:
        """Return the sum of each channel, shape (C,)."""
        total: Array = values.sum(axis=(0, *range(2, values.ndim)))
        return total

    def mean(self, values: Array) -> Array:
        """Return the mean of each channel, shape (C,); NaN of an empty batch."""
        return self.total(values) / self.count(values)

    def var(self, values: Array, mean: Array) -> Array:
        """Return the biased variance of each channel, shape (C,)."""
        return self.mean((values - along(mean, values)) ** 2)

    def rstd(self, var: Array) -> Array:
        """Return 1 / sqrt(var + eps)."""
        return 1 / np.sqrt(var + self.eps)

    def affine(self, x_hat: Array) -> Array:
        """Return x̂ · weight + bias."""
        y = x_hat
        if self.weight is not None:
            y = y * along(self.weight, y)
        if self.bias is not None:
            y = y + along(self.bias, y)
        return y

    # -- running statistics -----------------------------------------------------------------

    def tracks(self, training: bool) -> bool:
        """Return whether this pass updates the running statistics."""
        return training and self.running_mean is not None

    def track(self, values: Array) -> None:
        """Count the batch and, unless it is empty, update the running statistics."""
        self.count_batch(values)
        if self.count(values) > 0:
            mean = self.mean(values)
            self.update(mean, self.stored_var(self.var(values, mean), values))

    def count_batch(self, values: Array) -> None:
        """Add one to the batches seen."""
        self.num_batches_tracked += 1

    def stored_var(self, var: Array, values: Array) -> Array:
        """Return the unbiased variance, which is the one stored."""
        return var * self.count(values) / (self.count(values) - 1)

    def factor(self) -> float:
        """Return the weight of the new value."""
        return 1 / self.num_batches_tracked if self.momentum is None else self.momentum

    def update(self, mean: Array, var: Array) -> None:
        """Move the running statistics towards the batch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean = self.mix(self.running_mean, mean, self.factor())
        self.running_var = self.mix(self.running_var, var, self.factor())

    def mix(self, old: Array, new: Array, factor: float) -> Array:
        """Return (1 − factor) · old + factor · new in the dtype of `old`."""
        return ((1 - factor) * old.astype(np.float64) + factor * new).astype(old.dtype)

    # -- backward ---------------------------------------------------------------------------

    def remember(self, cache: Cache) -> None:
        """Keep what backward needs."""
        self.cache = cache

    @np.errstate(all="ignore")
    def backward(self, grad_output: Array) -> Gradients:
        """Return the gradients of input, weight and bias (None where there is none)."""
        g, cache = self.working(grad_output), self.cache
        grad_input = self.input_gradient(g, cache).astype(grad_output.dtype)
        grad_weight = grad_bias = None
        if self.weight is not None:
            grad_weight = self.weight_gradient(g, cache).astype(self.weight.dtype)
        if self.bias is not None:
            grad_bias = self.bias_gradient(g).astype(self.bias.dtype)
        return grad_input, grad_weight, grad_bias

    def input_gradient(self, g: Array, cache: Cache) -> Array:
        """Return weight · rstd · (g − mean(g) − x̂ · mean(g · x̂)); in evaluation weight · rstd · g.

        The second term is what reaches the input through the mean, the third through the variance.
        """
        inner = g
        if cache.by_batch:
            inner = g - self.mean_term(g) - self.var_term(g, cache)
        grad: Array = inner * along(self.scale(cache), g)
        return grad

    def scale(self, cache: Cache) -> Array:
        """Return weight · rstd."""
        return cache.rstd if self.weight is None else cache.rstd * self.weight

    def mean_term(self, g: Array) -> Array | float:
        """Return mean(g)."""
        return along(self.total(g) / self.divisor(g), g)

    def var_term(self, g: Array, cache: Cache) -> Array | float:
        """Return x̂ · mean(g · x̂)."""
        term: Array = cache.x_hat * along(self.total(g * cache.x_hat) / self.divisor(g), g)
        return term

    def divisor(self, g: Array) -> int:
        """Return what the means of backward divide by."""
        return self.count(g)

    def weight_gradient(self, g: Array, cache: Cache) -> Array:
        """Return Σ g · x̂ of each channel."""
        return self.total(g * cache.x_hat)

    def bias_gradient(self, g: Array) -> Array:
        """Return Σ g of each channel."""
        return self.total(g)


def along(vector: Array, like: Array) -> Array:
    """View (C,) values along axis 1 of an array (N, C, ...)."""
    return vector.reshape(-1, *(1,) * (like.ndim - 2))
