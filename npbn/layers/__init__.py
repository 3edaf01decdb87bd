"""Stateful layers over the kernels of :mod:`npbn.functional`, one short file each."""

from npbn.layers.activation import ReLU, Sigmoid
from npbn.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from npbn.layers.container import Sequential
from npbn.layers.convolution import Conv2d
from npbn.layers.linear import Linear
from npbn.layers.loss import CrossEntropyLoss, MSELoss
from npbn.layers.module import Module
from npbn.layers.parameter import Parameter
from npbn.layers.shape import Flatten, Identity

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv2d",
    "CrossEntropyLoss",
    "Flatten",
    "Identity",
    "Linear",
    "MSELoss",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
]
