"""BatchNorm from scratch in NumPy, every number verified against PyTorch."""

from npbn import data, errors, functional, init
from npbn.checkpoint import Checkpoint, load, save
from npbn.config import from_config, to_config
from npbn.data import ArrayDataset, DataLoader
from npbn.engines import get_engine, set_engine, using_engine
from npbn.engines.threads import get_num_threads, set_num_threads
from npbn.folding import fold_batch_norm
from npbn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchRenorm1d,
    BatchRenorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    MSELoss,
    Parameter,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.models import CNN, MLP
from npbn.onnx_export import export_onnx
from npbn.optim import SGD
from npbn.population import update_batch_norm
from npbn.rebuilding import from_state_dict
from npbn.training import Evaluation, evaluate, train_epoch, train_step

__version__ = "0.1.0"

__all__ = [
    "CNN",
    "MLP",
    "SGD",
    "AdaptiveAvgPool2d",
    "ArrayDataset",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "Checkpoint",
    "Conv2d",
    "CrossEntropyLoss",
    "DataLoader",
    "Dropout",
    "Evaluation",
    "Flatten",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "Identity",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "data",
    "errors",
    "evaluate",
    "export_onnx",
    "fold_batch_norm",
    "from_config",
    "from_state_dict",
    "functional",
    "get_engine",
    "get_num_threads",
    "init",
    "load",
    "save",
    "set_engine",
    "set_num_threads",
    "to_config",
    "train_epoch",
    "train_step",
    "update_batch_norm",
    "using_engine",
]
