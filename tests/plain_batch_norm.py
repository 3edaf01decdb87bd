"""A BatchNorm as one would write it, and wrong ones that are made of it."""

import numpy as np

from npbn.testing.protocol import class_implementation


class Plain:
    """A BatchNorm as one would write it, in float64, all ranks."""

    correction = 1

    def __init__(self, num_features, eps, momentum):
        self.eps, self.momentum = eps, momentum

    def forward(self, x, training):
        self.dtype, x = x.dtype, x.astype(np.float64)
        axes = (0, *range(2, x.ndim))
        self.along = (1, -1, *(1,) * (x.ndim - 2))
        self.count = x.size // x.shape[1]
        self.by_batch = training or self.running_mean is None
        mean, var = self.running_mean, self.running_var
        if self.by_batch:
            mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
            if self.count:
                mean, var = x.mean(axes), x.var(axes)
        if training and self.running_mean is not None:
            self.num_batches_tracked += 1
            if self.count:
                unbiased = var * (self.count / max(self.count - self.correction, 1))
                momentum = self.momentum
                if momentum is None:
                    momentum = 1 / self.num_batches_tracked
                for name, new in (("running_mean", mean), ("running_var", unbiased)):
                    old = getattr(self, name)
                    average = (1 - momentum) * old.astype(np.float64) + momentum * new
                    setattr(self, name, average.astype(old.dtype))
        self.std = np.sqrt(var.astype(np.float64) + self.eps).reshape(self.along)
        self.x_hat = (x - mean.reshape(self.along)) / self.std
        scale = 1 if self.weight is None else self.weight.reshape(self.along)
        shift = 0 if self.bias is None else self.bias.reshape(self.along)
        return (self.x_hat * scale + shift).astype(self.dtype)

    def backward(self, grad_output):
        g = grad_output.astype(np.float64)
        axes = (0, *range(2, g.ndim))
        grad_bias, grad_weight = g.sum(axes), (g * self.x_hat).sum(axes)
        if self.by_batch and self.count:
            g = g - grad_bias.reshape(self.along) / self.count
            g -= self.x_hat * (grad_weight.reshape(self.along) / self.count)
        scale = 1 if self.weight is None else self.weight.reshape(self.along)
        grad_input = (g * (scale / self.std)).astype(self.dtype)
        grads = [
            None if parameter is None else grad.astype(parameter.dtype)
            for parameter, grad in ((self.weight, grad_weight), (self.bias, grad_bias))
        ]
        return (grad_input, *grads)


class Biased(Plain):
    """Stores the biased variance."""

    correction = 0


def broken(**methods):
    """Return an implementation that is Plain but for some methods."""
    return class_implementation(type("Broken", (Plain,), methods))
