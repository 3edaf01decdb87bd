"""BatchNorm from scratch in NumPy, every number verified against PyTorch.

`npbn.distributed` (several processes, over MPI) and `npbn.testing` (checks of any BatchNorm) are
loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING

from npbn import data, errors, functional, init
from npbn.checkpoint import Checkpoint, load, save
from npbn.data import ArrayDataset, DataLoader
from npbn.deploy import (
    export_onnx,
    fold_batch_norm,
    from_config,
    from_state_dict,
    to_config,
)
from npbn.engines import get_engine, set_engine, using_engine
from npbn.engines.threads import get_num_threads, set_num_threads
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
    ModuleList,
    MSELoss,
    Parameter,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.models import CNN, MLP
from npbn.optim import SGD
from npbn.population import update_batch_norm
from npbn.training import Evaluation, evaluate, train_epoch, train_step
from npbn.version import __version__ as __version__

if TYPE_CHECKING:
    from npbn import distributed as distributed
    from npbn import testing as testing


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
    "ModuleList",
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

_LAZY = ("distributed", "testing")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAZY, "__version__"])


if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            return importlib.import_module(f"npbn.{name}")
        raise AttributeError(f"module 'npbn' has no attribute {name!r}")
