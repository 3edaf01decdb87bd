"""Ghost batch normalisation: the parts of a large batch are normalised one by one."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npbn.arguments import check_integer
from npbn.errors import BatchSizeError
from npbn.functional.batch_norm import BatchNormCache, batch_norm_backward
from npbn.layers.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d
from npbn.layers.rollback import restoring


class GhostBatchNorm(BatchNorm):
    """Base of the two below: all but the shapes of input.

    Parameters, attributes and errors are those of :class:`npbn.GhostBatchNorm1d`.
    """

    def __init__(
        self,
        num_features: int,
        ghost_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ):
        check_integer(type(self).__name__, "ghost_size", ghost_size, least=1)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, dtype=dtype
        )
        self.ghost_size = ghost_size

    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        ghosts = np.array_split(x, max(1, len(x) // self.ghost_size))
        smallest = ghosts[-1]
        if len(smallest) * math.prod(smallest.shape[2:]) == 1:
            raise BatchSizeError(
                f"{self._who()}: Expected more than 1 value per "
                f"channel when training, got ghosts of shape {smallest.shape}; choose a larger "
                f"ghost_size than {self.ghost_size}"
            )
        normalise = super()._apply_in_training

        def normalised() -> tuple[np.ndarray, Any]:
            done = [normalise(ghost, weight, bias) for ghost in ghosts]
            outputs, caches = zip(*done, strict=True)
            return np.concatenate(outputs), list(caches)

        return restoring(normalised)

    @np.errstate(all="ignore")
    def _gradients(
        self, grad_output: np.ndarray, cache: Any, input_grad: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        if isinstance(cache, BatchNormCache):  # of evaluation
            return batch_norm_backward(grad_output, cache, input_grad)
        parts = np.array_split(grad_output, len(cache))
        gradients = [
            batch_norm_backward(part, ghost, input_grad)
            for part, ghost in zip(parts, cache, strict=True)
        ]
        grad_inputs, grad_weights, grad_biases = zip(*gradients, strict=True)
        return (
            np.concatenate(grad_inputs) if input_grad else None,
            np.add.reduce(grad_weights, axis=0, dtype=np.float64),
            np.add.reduce(grad_biases, axis=0, dtype=np.float64),
        )

    def _arguments(self) -> dict[str, object]:
        return {"ghost_size": self.ghost_size, **super()._arguments()}


class GhostBatchNorm1d(GhostBatchNorm, BatchNorm1d):
    """Batch normalisation of inputs (N, C) or (N, C, L) by parts of the batch.

    In training the batch is split into N // ghost_size parts, the ghosts, whose sizes differ by at
    most one (a batch below ghost_size is one ghost). Each is normalised by its own mean and
    variance and enters the running statistics as a batch of its own, one after the other:
    :class:`BatchNorm1d` does the same with the ghosts as batches. A large batch so keeps the
    noise of small ones, which the paper found to improve generalisation. Evaluation is that of
    :class:`BatchNorm1d`. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    ghost_size : int
        The least number of samples in a ghost, at least 1. A remainder is distributed over the
        ghosts.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all ghosts since the last reset alike.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    track_running_stats : bool
        False keeps no running statistics: evaluation then normalises by the whole batch.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, ghost_size, eps, momentum, affine, track_running_stats
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,), or None
        At first 0 and 1.
    num_batches_tracked : ndarray, shape (), int64, or None
        Ghosts seen.

    Raises
    ------
    ValueError
        On an argument of the wrong kind, or a `ghost_size` below 1. In training, if `eps` is not
        above 0 or running statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a ghost with one value per channel in training.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the
       generalization gap in large batch training of neural networks", 2017, arXiv:1705.08741.

    Examples
    --------
    >>> import numpy as np
    >>> bn = GhostBatchNorm1d(1, ghost_size=2, dtype=np.float64)
    >>> bn(np.array([[1.0], [3.0], [100.0], [300.0]])).round(3).ravel()     # two ghosts of 2
    array([-1.,  1., -1.,  1.])
    >>> bn.running_mean, bn.num_batches_tracked         # 0.9 · 0.2 + 0.1 · 200
    (array([20.18]), array(2))
    """


class GhostBatchNorm2d(GhostBatchNorm, BatchNorm2d):
    """Batch normalisation of inputs (N, C, H, W) by parts of the batch.

    In training the batch is split into N // ghost_size parts, the ghosts, whose sizes differ by at
    most one (a batch below ghost_size is one ghost). Each is normalised by its own mean and
    variance and enters the running statistics as a batch of its own, one after the other:
    :class:`BatchNorm2d` does the same with the ghosts as batches. A large batch so keeps the
    noise of small ones, which the paper found to improve generalisation. Evaluation is that of
    :class:`BatchNorm2d`. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    ghost_size : int
        The least number of samples in a ghost, at least 1. A remainder is distributed over the
        ghosts.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all ghosts since the last reset alike.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    track_running_stats : bool
        False keeps no running statistics: evaluation then normalises by the whole batch.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, ghost_size, eps, momentum, affine, track_running_stats
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,), or None
        At first 0 and 1.
    num_batches_tracked : ndarray, shape (), int64, or None
        Ghosts seen.

    Raises
    ------
    ValueError
        On an argument of the wrong kind, or a `ghost_size` below 1. In training, if `eps` is not
        above 0 or running statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a ghost with one value per channel in training.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the
       generalization gap in large batch training of neural networks", 2017, arXiv:1705.08741.

    Examples
    --------
    >>> import numpy as np
    >>> bn = GhostBatchNorm2d(1, ghost_size=1, dtype=np.float64)
    >>> x = np.array([1.0, 3.0, 100.0, 300.0]).reshape(2, 1, 1, 2)      # two ghosts of one image
    >>> bn(x).round(3).ravel()
    array([-1.,  1., -1.,  1.])
    """
