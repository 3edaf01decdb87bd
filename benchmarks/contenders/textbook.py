"""BatchNorm as a textbook has it, in a few lines of NumPy, in the dtype of its input."""

import numpy as np

from benchmarks import normalisation as bn
from benchmarks.task import Task


def batch_norm(problem: bn.Problem) -> Task:
    """Return the equations at work."""
    setup, (x, g), mode = problem.setup, problem.arrays, problem.mode
    axes, count = (0, *range(2, x.ndim)), x.size // x.shape[1]
    weight, bias, running_mean, running_var = (
        values.reshape(1, -1, *(1,) * (x.ndim - 2)) if x.ndim > 2 else values.copy()
        for values in (setup.weight, setup.bias, setup.running_mean, setup.running_var)
    )
    eps, momentum, keep = setup.eps, setup.momentum, x.ndim > 2

    def forward() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal running_mean, running_var
        mean, var = x.mean(axes, keepdims=keep), x.var(axes, keepdims=keep)
        unbiased = var * (count / (count - 1))
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * unbiased
        std = np.sqrt(var + eps)
        x_hat = (x - mean) / std
        return weight * x_hat + bias, x_hat, std

    def train() -> tuple[np.ndarray, ...]:
        y, x_hat, std = forward()
        grad_weight, grad_bias = (g * x_hat).sum(axes, keepdims=keep), g.sum(axes, keepdims=keep)
        grad_input = weight / std * (g - (grad_bias + x_hat * grad_weight) / count)
        return y, grad_input, grad_weight, grad_bias

    def evaluate() -> np.ndarray:
        return weight * (x - running_mean) / np.sqrt(running_var + eps) + bias

    def read(outcome: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        names = ("y", "grad_input", "grad_weight", "grad_bias")
        found = dict(zip(names, outcome, strict=False))
        if mode != "eval":
            found |= {"running_mean": running_mean, "running_var": running_var}
        images = ("y", "grad_input")
        return {k: v if k in images else v.reshape(-1) for k, v in found.items()}

    runs = {
        "forward": lambda: forward()[:1],
        "forward + backward": train,
        "eval": lambda: (evaluate(),),
    }
    return Task(runs[mode], read)
