"""MyGrad: NumPy with automatic differentiation."""

import mygrad as mg
import numpy as np
from mygrad.nnet import batchnorm, relu, softmax_crossentropy

from benchmarks import network
from benchmarks.task import Task


def train_step(problem: network.Problem) -> Task:
    """Return a step of training; the running statistics are kept in NumPy, from the layer's."""
    x, target, momentum = problem.x, problem.target, network.MOMENTUM
    running = {name: values.copy() for name, values in problem.state.items() if "running" in name}
    parameters = {
        name: mg.tensor(values, copy=True)
        for name, values in problem.state.items()
        if name not in running
    }

    def linear(x: mg.Tensor, name: str) -> mg.Tensor:
        y = mg.matmul(x, parameters[f"{name}.weight"].T)
        return y + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else y

    def norm(x: mg.Tensor, name: str) -> mg.Tensor:
        if not problem.batch_norm:
            return x
        weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        y = batchnorm(x, gamma=weight, beta=bias, eps=network.EPS)
        unbiased = y.creator.var * (len(x) / (len(x) - 1))
        for key, new in (("mean", y.creator.mean), ("var", unbiased)):
            running[f"{name}.running_{key}"] *= 1 - momentum
            running[f"{name}.running_{key}"] += momentum * new
        return y

    def run() -> float:
        h = relu(norm(linear(x, "fc1"), "batch_norm1"))
        logits = linear(norm(linear(h, "fc2"), "batch_norm2"), "fc3")
        loss = softmax_crossentropy(logits, target)
        loss.backward()
        for parameter in parameters.values():
            parameter.data -= network.LEARNING_RATE * parameter.grad
            parameter.null_grad()
        return loss.item()

    def read(loss: float) -> dict[str, np.ndarray]:
        state = {name: parameter.data for name, parameter in parameters.items()}
        return {**state, **running, "loss": np.float64(loss)}

    return Task(run, read)
