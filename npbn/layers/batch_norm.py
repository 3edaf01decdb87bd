"""BatchNorm as a layer: what it learns, what it tracks, and which statistics it uses."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.errors import ShapeError
from npbn.functional.batch_norm import (
    batch_norm_backward,
    batch_norm_forward,
    update_running_statistics,
)
from npbn.functional.batches import rounded
from npbn.functional.checks import check_batch_norm, float_dtype, plainly_fits
from npbn.functional.statistics import BatchStatistics
from npbn.layers.module import Module
from npbn.layers.parameter import Parameter


class BatchNorm(Module):
    """Everything but the shapes of input that a variant takes: the base of all variants."""

    input_shapes: ClassVar[dict[int, str]]  # by rank, for checks and messages
    least_values: ClassVar[int] = 2  # per channel, of a batch in training
    # Called with the layer and every batch that has been checked; update_batch_norm measures so.
    observer: Callable[["BatchNorm", np.ndarray], None] | None = None

    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    num_batches_tracked: np.ndarray | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ):
        dtype = float_dtype(type(self).__name__, dtype)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine and bias else None
        for name, value in (
            ("running_mean", np.zeros(num_features, dtype)),
            ("running_var", np.ones(num_features, dtype)),
            ("num_batches_tracked", np.array(0, np.int64)),
        ):
            self.register_buffer(name, value if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """Start tracking anew: mean 0, variance 1, no batches seen."""
        if self.track_running_stats:
            self.check_writeable()
            self.running_mean[...] = 0
            self.running_var[...] = 1
            self.num_batches_tracked[...] = 0

    def reset_parameters(self) -> None:
        """Set the weight to 1, the bias to 0, and start tracking anew."""
        self.reset_running_stats()
        if self.weight is not None:
            self.weight.data[...] = 1
            self.weight.changed()
        if self.bias is not None:
            self.bias.data[...] = 0
            self.bias.changed()

    def check_writeable(self) -> None:
        """Raise ValueError if one of the statistics is read-only, before any of them changes."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if not (
            (mean is None or mean.flags.writeable)
            and (var is None or var.flags.writeable)
            and (count is None or count.flags.writeable)
        ):
            raise ValueError(
                f"{self._who()}: expected running_mean, running_var and num_batches_tracked that "
                "can be written to, got a read-only one"
            )

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        x = np.asarray(x)
        if x.ndim not in self.input_shapes:
            expected = " or ".join(self.input_shapes.values())
            raise ShapeError(
                f"{self._who()}: expected input of shape "
                f"{expected.replace('C', str(self.num_features))}, got {x.shape}"
            )
        training = self.training and not predict
        vectors = {
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "weight": None if self.weight is None else self.weight.data,
            "bias": None if self.bias is None else self.bias.data,
        }
        by_batch = training or (self.running_mean is None and self.running_var is None)
        if not plainly_fits(x, self.num_features, vectors, by_batch, self.eps):
            check_batch_norm(
                self._who(), x, self.num_features, vectors, by_batch, self.eps, self.least_values
            )
        if self.observer is not None:
            self.observer(self, x)
        if training:
            return self._apply_in_training(x, vectors["weight"], vectors["bias"])
        return batch_norm_forward(x, **vectors, training=by_batch, eps=self.eps)

    def _who(self) -> str:
        return f"{type(self).__name__}({self.num_features})"

    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        """Return output and cache of a batch that has been checked, and track its statistics."""
        y, cache = batch_norm_forward(x, None, None, weight, bias, training=True, eps=self.eps)
        if self.track_running_stats:
            self._track(cache.statistics)
        return y, cache

    def _track(self, statistics: BatchStatistics) -> None:
        """Average a batch into the running statistics; momentum None weighs all batches alike."""
        self.check_writeable()
        if self.momentum is None and not statistics.count:  # it would weigh, and has no value
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked[...] = self.num_batches_tracked.item() + 1
        if self.running_mean is not None:
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            update_running_statistics(self.running_mean, self.running_var, statistics, momentum)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        grad_input, grad_weight, grad_bias = self._gradients(grad_output, cache, input_grad)
        if self.weight is not None:
            self.weight.accumulate(rounded(grad_weight, self.weight.dtype))
        if self.bias is not None:
            self.bias.accumulate(rounded(grad_bias, self.bias.dtype))
        return grad_input

    def _gradients(
        self, grad_output: np.ndarray, cache: Any, input_grad: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Return the gradients of input, weight and bias."""
        return batch_norm_backward(grad_output, cache, input_grad)

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L) inputs; torch's ``nn.BatchNorm1d``.

    In training each channel is normalised by the mean and the biased variance of its
    batch (over N, or N and L), then scaled and shifted::

        y = (x − mean) / sqrt(var + eps) · weight + bias

    and the running statistics are averaged: ``running = (1 − momentum) · running +
    momentum · batch``, the variance stored unbiased. In evaluation the running statistics
    take the place of the batch's. Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1;
    see :mod:`npbn.functional.batch_norm`.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of
        the old one). None: the plain average of all batches since the last reset that had a value;
        torch counts empty ones too, which have nothing to say.
    affine : bool
        Whether scale and shift are learnt.
    track_running_stats : bool
        False keeps no running statistics and normalises by the batch in evaluation too.
    bias : bool
        False keeps the scale without the shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. Inputs have the same; a float16 input is
        taken with float32 parameters too.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
    running_mean, running_var : ndarray, shape (C,), or None
    num_batches_tracked : ndarray, shape (), int64, or None
        Batches seen, with momentum None those that had a value.

    Raises
    ------
    ShapeError, DtypeError
        On an input of another rank, channel count or dtype.
    BatchSizeError
        On one value per channel in training.
    ValueError
        On `eps` not above 0, or read-only running statistics, in training.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchNorm1d(1, dtype=np.float64)
    >>> x = np.array([[1.0], [2.0], [3.0], [6.0]])
    >>> bn(x).round(3).ravel()                          # by the batch: mean 3, variance 3.5
    array([-1.069, -0.535,  0.   ,  1.604])
    >>> bn.running_mean, bn.running_var.round(3)        # 10 % of the batch's, variance unbiased
    (array([0.3]), array([1.367]))
    >>> bn.eval()(x).round(3).ravel()                   # by the running statistics
    array([0.599, 1.454, 2.31 , 4.876])
    """

    input_shapes: ClassVar[dict[int, str]] = {2: "(N, C)", 3: "(N, C, L)"}


class BatchNorm2d(BatchNorm):
    """Batch normalisation of (N, C, H, W) inputs, over N, H and W; torch's ``nn.BatchNorm2d``.

    Arguments, attributes and errors are :class:`BatchNorm1d`'s.
    """

    input_shapes: ClassVar[dict[int, str]] = {4: "(N, C, H, W)"}


class BatchNorm3d(BatchNorm):
    """Batch normalisation of (N, C, D, H, W) inputs, over all but C; torch's ``nn.BatchNorm3d``.

    Arguments, attributes and errors are :class:`BatchNorm1d`'s.
    """

    input_shapes: ClassVar[dict[int, str]] = {5: "(N, C, D, H, W)"}
