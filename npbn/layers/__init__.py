"""Stateful layers over the kernels of :mod:`npbn.functional`, one short file each."""

from npbn.layers.activation import ReLU, Sigmoid
from npbn.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from npbn.layers.batch_renorm import BatchRenorm1d, BatchRenorm2d
from npbn.layers.container import ModuleList, Sequential
from npbn.layers.convolution import Conv2d
from npbn.layers.dropout import Dropout
from npbn.layers.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d
from npbn.layers.linear import Linear
from npbn.layers.loss import CrossEntropyLoss, MSELoss
from npbn.layers.module import Module
from npbn.layers.parameter import Parameter
from npbn.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from npbn.layers.shape import Flatten, Identity

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "Identity",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
]
