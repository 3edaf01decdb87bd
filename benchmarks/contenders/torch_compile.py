"""PyTorch, compiled for each shape: the layer, or the network with its loss."""

import os
import shutil

import torch

from benchmarks import cnn, conv, network
from benchmarks import normalisation as bn
from benchmarks.contenders import torch_eager
from benchmarks.contenders.torch_eager import set_threads
from benchmarks.task import SkipError, Task

__all__ = ["batch_norm", "clear", "cnn_step", "conv2d", "predict", "set_threads", "train_step"]

if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")):
    raise SkipError("there is no C++ compiler")

call = torch.compile(torch_eager.call, dynamic=False)
loss_of = torch.compile(torch_eager.loss_of, dynamic=False)


def clear() -> None:
    """Forget compiled code: torch looks through all it has at each call, up to a limit."""
    torch._dynamo.reset()


def batch_norm(problem: bn.Problem) -> Task:
    """Return the compiled layer at work."""
    return torch_eager.batch_norm(problem, call)


def train_step(problem: network.Problem) -> Task:
    """Return a step of training."""
    return torch_eager.train_step(problem, loss_of)


def conv2d(problem: conv.Problem) -> Task:
    """Return the compiled convolution at work."""
    return torch_eager.conv2d(problem, call)


def cnn_step(problem: cnn.Problem) -> Task:
    """Return a step of training of the convolutional network."""
    return torch_eager.cnn_step(problem, loss_of)


def predict(problem: network.Problem) -> Task:
    """Return a prediction."""
    return torch_eager.predict(problem, call)
