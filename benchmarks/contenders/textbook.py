"""BatchNorm as a textbook has it, in a few lines of NumPy, in the dtype of its input."""

import numpy as np

from benchmarks import batch_norm as bn
from benchmarks.task import Task


def batch_norm(problem: bn.Problem) -> Task:
    """Return the equations at work."""
    setup, (x, g), mode = problem.setup, problem.arrays, problem.mode
    weight, bias, eps, momentum = setup.weight, setup.bias, setup.eps, setup.momentum
    running_mean, running_var = setup.running_mean.copy(), setup.running_var.copy()

    def forward() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal running_mean, running_var
        mean, var = x.mean(0), x.var(0)
        unbiased = var * (len(x) / (len(x) - 1))
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * unbiased
        std = np.sqrt(var + eps)
        x_hat = (x - mean) / std
        return weight * x_hat + bias, x_hat, std

    def train() -> tuple[np.ndarray, ...]:
        y, x_hat, std = forward()
        grad_weight, grad_bias = (g * x_hat).sum(0), g.sum(0)
        grad_input = weight / std * (g - (grad_bias + x_hat * grad_weight) / len(x))
        return y, grad_input, grad_weight, grad_bias

    def evaluate() -> np.ndarray:
        return weight * (x - running_mean) / np.sqrt(running_var + eps) + bias

    def read(outcome: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        names = ("y", "grad_input", "grad_weight", "grad_bias")
        running = {"running_mean": running_mean, "running_var": running_var}
        return dict(zip(names, outcome, strict=False)) | ({} if mode == "eval" else running)

    runs = {
        "forward": lambda: forward()[:1],
        "forward + backward": train,
        "eval": lambda: (evaluate(),),
    }
    return Task(runs[mode], read)
