"""npbn with its compiled engine."""

import numba  # noqa: F401  # where it is absent the contender is skipped, as others are

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

npbn.set_engine("numba")
