"""npbn with its NumPy engine."""

import npbn
from benchmarks.contenders.npbn_ import (
    batch_norm,
    cnn_step,
    conv2d,
    predict,
    set_threads,
    train_step,
)

__all__ = ["batch_norm", "cnn_step", "conv2d", "predict", "set_threads", "train_step"]

npbn.set_engine("numpy")
