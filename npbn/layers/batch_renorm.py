"""Batch renormalisation: training that normalises almost as evaluation does."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from npbn.arguments import check_number
from npbn.functional.batch_norm import BatchNormCache, batch_norm_backward
from npbn.functional.batch_norm_shards import batch_norm_elemt, batch_norm_stats
from npbn.functional.statistics import BatchStatistics
from npbn.layers.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d


class BatchRenormCache(NamedTuple):
    """What the backward pass of training needs: r and d, constants there, and BatchNorm's own."""

    batch_norm: BatchNormCache
    r: np.ndarray
    d: np.ndarray


class BatchRenorm(BatchNorm):
    """Base of the two below: all but the shapes of input.

    Parameters, attributes and errors are those of :class:`npbn.BatchRenorm1d`.
    """

    def __init__(
        self,
        num_features: int,
        r_max: float,
        d_max: float,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ):
        for name, limit in (("r_max", r_max), ("d_max", d_max)):
            check_number(type(self).__name__, name, limit)
        self.r_max = r_max
        self.d_max = d_max
        self._check_limits()
        super().__init__(num_features, eps, momentum, affine, bias=bias, dtype=dtype)

    def _check_limits(self) -> None:
        """Raise ValueError unless r_max and d_max are in range; training may change them."""
        if not (self.r_max >= 1 and self.d_max >= 0):
            raise ValueError(
                f"{type(self).__name__}: expected r_max >= 1 and d_max >= 0, "
                f"got r_max={self.r_max}, d_max={self.d_max}"
            )

    @np.errstate(all="ignore")
    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        self._check_limits()
        if self.r_max == 1 and self.d_max == 0:  # BatchNorm exactly, for NaN and infinities too
            return super()._apply_in_training(x, weight, bias)
        statistics = batch_norm_stats(x)
        r, d = self._correction(statistics)
        # y = weight · (r · x̂ + d) + bias
        scale = r if weight is None else weight * r
        shift = d if weight is None else weight * d
        shift = shift if bias is None else bias + shift
        y, inner = batch_norm_elemt(x, statistics, scale, shift, self.eps)
        cache = BatchRenormCache(inner, r, d)
        self._track(statistics)
        return y, cache

    def _correction(self, statistics: BatchStatistics) -> tuple[np.ndarray, np.ndarray]:
        """Return r and d, (C,) in float64, from the running statistics before the update."""
        running_mean, running_var = self.running_mean, self.running_var
        if running_mean is None or running_var is None:
            raise ValueError(f"{self._who()}: expected running statistics, got None")
        running_std = np.sqrt(running_var.astype(np.float64) + self.eps)
        r = np.sqrt(statistics.var + self.eps) / running_std
        d = ((statistics.mean - running_mean) + statistics.rest) / running_std
        return r.clip(1 / self.r_max, self.r_max), d.clip(-self.d_max, self.d_max)

    @np.errstate(all="ignore")
    def _gradients(
        self, grad_output: np.ndarray, cache: Any, input_grad: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        if isinstance(cache, BatchNormCache):  # of evaluation, or without a correction
            return batch_norm_backward(grad_output, cache, input_grad)
        inner, r, d = cache
        grad_input, grad_scale, grad_bias = batch_norm_backward(grad_output, inner, input_grad)
        return grad_input, r * grad_scale + d * grad_bias, grad_bias

    def _arguments(self) -> dict[str, object]:
        arguments = super()._arguments()
        del arguments["track_running_stats"]  # always so
        return {"r_max": self.r_max, "d_max": self.d_max, **arguments}


class BatchRenorm1d(BatchRenorm, BatchNorm1d):
    """Batch renormalisation of inputs (N, C) or (N, C, L).

    In training the batch is normalised as in :class:`BatchNorm1d`. A correction then changes the
    result into that of the running statistics, as far as its limits allow::

        r = clip(batch std / running std, 1 / r_max, r_max)
        d = clip((batch mean − running mean) / running std, −d_max, d_max)
        y = (x̂ · r + d) · weight + bias,    x̂ = (x − batch mean) / batch std

    with std = sqrt(var + eps) and the running statistics before the step; the backward pass
    treats r and d as constants. Within the limits training computes what evaluation does, so that
    small batches, or batches whose samples depend on one another, do less harm. Evaluation is that
    of :class:`BatchNorm1d`, and so is training with r_max = 1 and d_max = 0. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    r_max, d_max : float
        Limits of the correction, r_max ≥ 1 and d_max ≥ 0. The paper starts with 1 and 0 and goes
        to 3 and 5 during training (section 4): assign to the attributes to do so.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all batches since the last reset alike.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, r_max, d_max, eps, momentum, affine
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,)
        At first 0 and 1. The variance is the average of unbiased variances, torch's convention, so
        that a ``state_dict`` fits BatchNorm too; the paper averages biased deviations.
    num_batches_tracked : ndarray, shape (), int64
        Batches seen.

    Raises
    ------
    ValueError
        On an argument of the wrong kind or limits out of range. In training, if `eps` is not above
        0 or running statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a batch with one value per channel in training.

    References
    ----------
    .. [1] S. Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in
       Batch-Normalized Models", 2017, arXiv:1702.03275.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchRenorm1d(1, r_max=3.0, d_max=5.0, dtype=np.float64)
    >>> bn.running_mean[:], bn.running_var[:] = 2.0, 4.0
    >>> bn(np.array([[1.0], [5.0]])).round(3).ravel()   # as evaluation: (x − 2) / 2
    array([-0.5,  1.5])
    """


class BatchRenorm2d(BatchRenorm, BatchNorm2d):
    """Batch renormalisation of inputs (N, C, H, W).

    In training the batch is normalised as in :class:`BatchNorm2d`. A correction then changes the
    result into that of the running statistics, as far as its limits allow::

        r = clip(batch std / running std, 1 / r_max, r_max)
        d = clip((batch mean − running mean) / running std, −d_max, d_max)
        y = (x̂ · r + d) · weight + bias,    x̂ = (x − batch mean) / batch std

    with std = sqrt(var + eps) and the running statistics before the step; the backward pass
    treats r and d as constants. Within the limits training computes what evaluation does, so that
    small batches, or batches whose samples depend on one another, do less harm. Evaluation is that
    of :class:`BatchNorm2d`, and so is training with r_max = 1 and d_max = 0. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    r_max, d_max : float
        Limits of the correction, r_max ≥ 1 and d_max ≥ 0. The paper starts with 1 and 0 and goes
        to 3 and 5 during training (section 4): assign to the attributes to do so.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all batches since the last reset alike.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, r_max, d_max, eps, momentum, affine
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,)
        At first 0 and 1. The variance is the average of unbiased variances, torch's convention, so
        that a ``state_dict`` fits BatchNorm too; the paper averages biased deviations.
    num_batches_tracked : ndarray, shape (), int64
        Batches seen.

    Raises
    ------
    ValueError
        On an argument of the wrong kind or limits out of range. In training, if `eps` is not above
        0 or running statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a batch with one value per channel in training.

    References
    ----------
    .. [1] S. Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in
       Batch-Normalized Models", 2017, arXiv:1702.03275.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchRenorm2d(1, r_max=3.0, d_max=5.0, dtype=np.float64)
    >>> bn.running_mean[:], bn.running_var[:] = 2.0, 4.0
    >>> bn(np.array([[[[1.0, 5.0]]]])).round(3).ravel()     # as evaluation: (x − 2) / 2
    array([-0.5,  1.5])
    """
