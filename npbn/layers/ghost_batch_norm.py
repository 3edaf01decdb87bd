"""Ghost batch normalisation: a large batch, normalised as the small ones of which it consists."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npbn.errors import BatchSizeError
from npbn.functional.batch_norm import BatchNormCache, batch_norm_backward
from npbn.layers.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d


class GhostBatchNorm(BatchNorm):
    """Everything but the shapes of input: the base of the two below."""

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
        if ghost_size < 1:
            raise ValueError(f"{type(self).__name__}: expected ghost_size >= 1, got {ghost_size}")
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, dtype=dtype
        )
        self.ghost_size = ghost_size

    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        ghosts = np.array_split(x, max(1, len(x) // self.ghost_size))
        smallest = ghosts[-1]
        if smallest.size == self.num_features > 0:
            raise BatchSizeError(
                f"{type(self).__name__}({self.num_features}): Expected more than 1 value per "
                f"channel when training, got ghosts of shape {smallest.shape}; choose a larger "
                f"ghost_size than {self.ghost_size}"
            )
        normalise = super()._apply_in_training
        outputs, caches = zip(*(normalise(ghost, weight, bias) for ghost in ghosts), strict=True)
        return np.concatenate(outputs), list(caches)

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
            np.sum(grad_weights, axis=0, dtype=np.float64),
            np.sum(grad_biases, axis=0, dtype=np.float64),
        )

    def extra_repr(self) -> str:
        """Return the arguments, torch's as torch prints them."""
        features, rest = super().extra_repr().split(", ", 1)
        return f"{features}, ghost_size={self.ghost_size}, {rest}"


class GhostBatchNorm1d(GhostBatchNorm, BatchNorm1d):
    """Batch normalisation by parts of the batch, for (N, C) or (N, C, L) inputs.

    In training the batch is split into N // ghost_size ghosts, whose sizes differ by one at the
    most (a smaller batch is one ghost). Each is normalised by its own mean and variance, and
    enters the running statistics as a batch of its own, one after the other: what
    :class:`BatchNorm1d` does with the ghosts in turn. So a large batch keeps the noise of small
    ones, which is said to help it generalise. In evaluation, and wherever one ghost is the batch,
    it is :class:`BatchNorm1d`. Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, algorithm 1.

    Parameters
    ----------
    num_features : int
        C.
    ghost_size : int
        Samples that are normalised together, at the least; a remainder is spread over the ghosts
        rather than left as a small one.
    eps, momentum, affine, track_running_stats, bias, dtype
        :class:`BatchNorm1d`'s. With momentum None each ghost counts as a batch.

    Attributes
    ----------
    num_batches_tracked : ndarray, shape (), int64, or None
        Ghosts seen. The other attributes are :class:`BatchNorm1d`'s.

    Raises
    ------
    ValueError
        On a `ghost_size` below 1.
    ShapeError, DtypeError, BatchSizeError
        As in :class:`BatchNorm1d`; the last also on ghosts of one value per channel.

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
    """Batch normalisation by parts of the batch, for (N, C, H, W) inputs.

    Arguments, attributes and errors are :class:`GhostBatchNorm1d`'s.
    """
