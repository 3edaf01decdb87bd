"""Batch renormalisation: training that normalises almost as evaluation does."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

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
    """Everything but the shapes of input: the base of the two below."""

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
        super().__init__(num_features, eps, momentum, affine, bias=bias, dtype=dtype)
        self.r_max = r_max
        self.d_max = d_max
        self._check_limits()

    def _check_limits(self) -> None:
        """Raise unless r_max and d_max are limits; they may be changed between two steps."""
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
        if self.r_max == 1 and self.d_max == 0:  # exactly, with what is not finite too
            return super()._apply_in_training(x, weight, bias)
        statistics = batch_norm_stats(x)
        r, d = self._correction(statistics)
        # y = weight · (r · x̂ + d) + bias
        scale = r if weight is None else weight * r
        shift = d if weight is None else weight * d
        shift = shift if bias is None else bias + shift
        y, cache = batch_norm_elemt(x, statistics, scale, shift, self.eps)
        self._track(statistics)
        return y, BatchRenormCache(cache, r, d)

    def _correction(self, statistics: BatchStatistics) -> tuple[np.ndarray, np.ndarray]:
        """Return r and d, (C,) in float64, from the running statistics before the update."""
        running_std = np.sqrt(self.running_var.astype(np.float64) + self.eps)
        r = np.sqrt(statistics.var + self.eps) / running_std
        d = ((statistics.mean - self.running_mean) + statistics.rest) / running_std
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

    def extra_repr(self) -> str:
        """Return the arguments, torch's as torch prints them."""
        features, rest = super().extra_repr().split(", ", 1)
        rest = rest.rpartition(", ")[0]  # track_running_stats is no argument here
        return f"{features}, r_max={self.r_max}, d_max={self.d_max}, {rest}"


class BatchRenorm1d(BatchRenorm, BatchNorm1d):
    """Batch renormalisation of (N, C) or (N, C, L) inputs.

    In training the batch normalises, as in :class:`BatchNorm1d`, and a correction brings the
    result to what the running statistics would give, as far as its limits allow::

        r = clip(batch std / running std, 1 / r_max, r_max)
        d = clip((batch mean − running mean) / running std, −d_max, d_max)
        y = (x̂ · r + d) · weight + bias,    x̂ = (x − batch mean) / batch std

    with std = sqrt(var + eps) and the running statistics from before the step; r and d are
    constants in the backward pass. Within the limits training computes what evaluation does, so
    that small or unlike batches do less harm. With r_max = 1 and d_max = 0 it is
    :class:`BatchNorm1d` exactly, and in evaluation it always is. Ioffe 2017, arXiv:1702.03275,
    algorithm 1. The paper averages the batches' biased deviations; here the running variance is
    torch's, the average of unbiased variances, so that a ``state_dict`` fits either layer.

    Parameters
    ----------
    num_features : int
        C.
    r_max, d_max : float
        Limits of the correction, r_max ≥ 1 and d_max ≥ 0. The paper starts with 1 and 0 and goes
        to 3 and 5 while it trains (section 4): assign to the attributes to do the same.
    eps, momentum, affine, bias, dtype
        :class:`BatchNorm1d`'s; there are always running statistics.

    Raises
    ------
    ValueError
        On limits out of range.
    ShapeError, DtypeError, BatchSizeError
        As in :class:`BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchRenorm1d(1, r_max=3.0, d_max=5.0, dtype=np.float64)
    >>> bn.running_mean[:], bn.running_var[:] = 2.0, 4.0
    >>> bn(np.array([[1.0], [5.0]])).round(3).ravel()   # as evaluation: (x − 2) / 2
    array([-0.5,  1.5])
    """


class BatchRenorm2d(BatchRenorm, BatchNorm2d):
    """Batch renormalisation of (N, C, H, W) inputs.

    Arguments, attributes and errors are :class:`BatchRenorm1d`'s.
    """
