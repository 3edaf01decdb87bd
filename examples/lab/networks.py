"""Small networks for the experiments, and their training."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

import npbn
from examples.lab.experiment import CLASSES, Digits
from npbn.errors import DataError


def mlp(
    digits: Digits,
    hidden: list[int],
    norm: Callable[[int], npbn.Module] | None,
    rng: np.random.Generator,
    *,
    activation: type[npbn.Module] = npbn.ReLU,
    init: Callable[[np.ndarray, np.random.Generator], None] | None = None,
) -> npbn.Sequential:
    """Return Linear, norm, activation for each hidden layer, and a last Linear.

    Parameters
    ----------
    digits : Digits
        What the network is for: an input for every pixel, an output for every class.
    hidden : list of int
        Widths of the hidden layers.
    norm : callable or None
        Makes the layer that normalises so many features; the Linear before it has no bias then.
    rng : numpy.random.Generator
    activation : type
    init : callable, optional
        Takes a weight matrix, (out, in), to be overwritten, and `rng`; biases are 0 then. By
        default the weights are Linear's own, which are torch's.
    """
    net, widths = npbn.Sequential(), [digits.train_images.shape[1], *hidden]
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = npbn.Linear(fan_in, fan_out, rng=rng)
        net.append(linear)
        if norm is not None:
            linear.bias = None  # but drawn: a seed's weights are the same with norm and without
            net.append(norm(fan_out))
        net.append(activation())
    net.append(npbn.Linear(widths[-1], CLASSES, rng=rng))
    if init is not None:
        for layer in net:
            if isinstance(layer, npbn.Linear):
                init(layer.weight.data, rng)
                if layer.bias is not None:
                    layer.bias.data[...] = 0
    return net


def he_normal(
    scale: float = 1.0,
) -> Callable[[np.ndarray, np.random.Generator], None]:
    """Return an initialisation by normal numbers of deviation scale · sqrt(2 / fan_in).

    He, Zhang, Ren and Sun 2015, arXiv:1502.01852, equation 10.
    """

    def init(weight: np.ndarray, rng: np.random.Generator) -> None:
        weight[...] = rng.normal(0, scale * np.sqrt(2 / weight.shape[1]), weight.shape)

    return init


def batches(
    digits: Digits, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `steps` batches of training images, shuffled anew for every pass over them."""
    if len(digits.train_labels) < batch_size:
        raise DataError(
            f"expected at least {batch_size} training images, got {len(digits.train_labels)}"
        )
    done = 0
    while done < steps:
        order = rng.permutation(len(digits.train_labels))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            if done == steps:
                return
            chosen = order[start : start + batch_size]
            yield digits.train_images[chosen], digits.train_labels[chosen]
            done += 1


def train(
    net: npbn.Module,
    digits: Digits,
    lr: float,
    steps: int,
    rng: np.random.Generator,
    *,
    batch_size: int = 64,
    after_step: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Train by SGD until a loss is not finite; return the losses.

    `after_step` is called with the number of steps done, 0 before the first.
    """
    criterion, optimizer = npbn.CrossEntropyLoss(), npbn.SGD(net.parameters(), lr=lr)
    losses: list[float] = []
    after_step(0)
    for step, (x, target) in enumerate(batches(digits, batch_size, steps, rng), start=1):
        loss, _ = npbn.train_step(net, x, target, criterion, optimizer)
        losses.append(loss)
        if not np.isfinite(loss):
            break
        after_step(step)
    return np.array(losses)


def accuracy(net: npbn.Module, digits: Digits) -> float:
    """Return the share of test images that the network gets right, in evaluation mode."""
    found = net.predict(digits.test_images).argmax(axis=1)
    return float(np.mean(found == digits.test_labels))
