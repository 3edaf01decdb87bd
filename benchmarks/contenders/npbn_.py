"""npbn at work, with whichever engine is in use: npbn_numpy and npbn_numba choose one."""

import numpy as np

import npbn
from benchmarks import cnn, conv, network
from benchmarks import normalisation as bn
from benchmarks.task import Task


def set_threads(threads: int) -> None:
    """Limit npbn's own threads."""
    npbn.set_num_threads(threads)


def batch_norm(problem: bn.Problem) -> Task:
    """Return npbn's layer at work."""
    setup, (x, g), mode = problem.setup, problem.arrays, problem.mode
    kind = npbn.BatchNorm1d if x.ndim == 2 else npbn.BatchNorm2d
    layer = kind(setup.num_features, setup.eps, setup.momentum, dtype=setup.dtype)
    layer.load_state_dict(bn.state_of(setup))

    def train() -> tuple[np.ndarray, ...]:
        layer.weight.grad = layer.bias.grad = None
        y = layer(x)
        return y, layer.backward(g)

    def read(outcome: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        results = dict(zip(("y", "grad_input"), outcome, strict=False))
        if mode != "eval":
            results |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
        if mode == "forward + backward":
            results |= {"grad_weight": layer.weight.grad, "grad_bias": layer.bias.grad}
        return results

    runs = {
        "forward": lambda: (layer(x),),
        "forward + backward": train,
        "eval": lambda: (layer.predict(x),),
    }
    return Task(runs[mode], read)


def conv2d(problem: conv.Problem) -> Task:
    """Return npbn's convolution at work."""
    outputs, channels = problem.weight.shape[:2]
    layer = npbn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    layer.load_state_dict({"weight": problem.weight})

    def forward() -> tuple[np.ndarray, ...]:
        return (layer(problem.x),)

    def train() -> tuple[np.ndarray, ...]:
        layer.zero_grad()
        y = layer(problem.x)
        return y, layer.backward(problem.grad_output), layer.weight.grad

    names = ("y", "grad_input", "grad_weight")
    run = forward if problem.mode == conv.MODES[0] else train
    return Task(run, lambda outcome: dict(zip(names, outcome, strict=False)))


def cnn_step(problem: cnn.Problem) -> Task:
    """Return a step of training of the convolutional network."""
    net = npbn.CNN()
    net.load_state_dict(problem.state)
    criterion = npbn.CrossEntropyLoss()
    optimizer = npbn.SGD(net.parameters(), lr=network.LEARNING_RATE)

    def run() -> float:
        return npbn.train_step(net, problem.x, problem.target, criterion, optimizer)[0]

    return Task(run, lambda loss: {**net.state_dict(), "loss": np.float64(loss)})


def network_of(problem: network.Problem) -> npbn.MLP:
    """Return the network in its initial state."""
    net = npbn.MLP(network.INPUTS, problem.width, network.CLASSES, problem.batch_norm)
    net.load_state_dict(problem.state)
    return net


def train_step(problem: network.Problem) -> Task:
    """Return a step of training."""
    net = network_of(problem)
    criterion = npbn.CrossEntropyLoss()
    optimizer = npbn.SGD(net.parameters(), lr=network.LEARNING_RATE)

    def run() -> float:
        return npbn.train_step(net, problem.x, problem.target, criterion, optimizer)[0]

    return Task(run, lambda loss: {**net.state_dict(), "loss": np.float64(loss)})


def predict(problem: network.Problem) -> Task:
    """Return a prediction."""
    net = network_of(problem)
    return Task(lambda: net.predict(problem.x), lambda logits: {"logits": logits})
