"""thinc, whose layers have no BatchNorm: the network without it."""

import numpy as np
from thinc.api import SGD, CategoricalCrossentropy, Linear, Relu, Softmax_v2, chain

from benchmarks import network
from benchmarks.task import SkipError, Task


def train_step(problem: network.Problem) -> Task:
    """Return a step of training."""
    if problem.batch_norm:
        raise SkipError("it has no BatchNorm")
    width, x, target = problem.width, problem.x, problem.target
    layers = {
        "fc1": Relu(width, network.INPUTS),
        "fc2": Linear(width, width),
        "fc3": Softmax_v2(network.CLASSES, width),  # with the linear layer before it
    }
    net = chain(*layers.values()).initialize()
    for name, layer in layers.items():
        layer.set_param("W", problem.state[f"{name}.weight"].copy())
        layer.set_param("b", problem.state[f"{name}.bias"].copy())
    criterion = CategoricalCrossentropy()
    optimizer = SGD(network.LEARNING_RATE, grad_clip=0.0, use_averages=False)
    rows = np.arange(len(x))

    def run() -> float:
        p, backprop = net.begin_update(x)
        backprop(criterion.get_grad(p, target))
        net.finish_update(optimizer)
        # thinc's own get_loss is the sum of the gradient's squares, not the cross-entropy.
        return float(-np.log(p[rows, target]).mean())

    def read(loss: float) -> dict[str, np.ndarray]:
        state = {"loss": np.float64(loss)}
        for name, layer in layers.items():
            state[f"{name}.weight"] = layer.get_param("W")
            state[f"{name}.bias"] = layer.get_param("b")
        return state

    return Task(run, read)
