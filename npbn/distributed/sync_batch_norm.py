"""BatchNorm over the batches of all ranks together."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from npbn.distributed.communicator import Communicator, raise_not_finite
from npbn.distributed.mpi import communicator
from npbn.errors import BatchSizeError
from npbn.functional.batch_norm import BatchNormCache
from npbn.functional.batch_norm_shards import (
    batch_norm_backward_elemt,
    batch_norm_backward_reduce,
    batch_norm_elemt,
    batch_norm_stats,
)
from npbn.functional.statistics import BatchStatistics, merge_all, two_parts
from npbn.layers.batch_norm import BatchNorm

# Ranks up to which every rank gets the statistics of all and merges them: one message each, of a
# size that grows with P. Beyond, two sums over the ranks, whose size does not. At 256 channels both
# take 53 µs on 16 ranks, 113 and 80 µs on 64, with the latency and bandwidth measured between two
# on one machine (benchmarks/results/ranks.md); on 10 Gbit/s they meet between 32 and 64.
GATHER = 16


class SyncCache(NamedTuple):
    """What the backward pass of training needs: the shard's part, and the values of all ranks."""

    shard: BatchNormCache
    count: int


class SyncBatchNorm(BatchNorm):
    """Batch normalisation over the shards of all ranks; torch's ``nn.SyncBatchNorm``, on CPUs.

    In training the statistics of the ranks' shards are merged, so that every rank normalises as
    one process would normalise the whole batch, and has its running statistics. The gradient of
    the input goes through the statistics to the shards of all ranks; the gradients of weight and
    bias are the shard's own, for :class:`DataParallel` to add. Shards may differ in size and may
    be empty; what counts is that the whole batch has more than one value per channel. Evaluation
    is :class:`npbn.BatchNorm1d`'s, and exchanges nothing.

    Parameters
    ----------
    num_features : int
        C, of inputs (N, C) or (N, C, ...) of any rank.
    eps, momentum, affine, track_running_stats, bias, dtype
        :class:`npbn.BatchNorm1d`'s.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``. All have to run the same layers in the same order.

    Raises
    ------
    ShapeError, DtypeError, ValueError
        As in :class:`npbn.BatchNorm1d`.
    BatchSizeError
        On all ranks alike, on one value per channel in all of them together.
    DistributedError
        If another rank failed, is gone or is elsewhere, or if statistics are NaN or infinite: it
        names the rank.

    Notes
    -----
    Messages, per forward pass in training: up to 16 ranks (``GATHER``) one gather, to which each
    contributes 8 · (2 + 2 C) bytes (count, mean and m2, and a stamp that tells whether all are at
    the same exchange). With more, two sums, over 8 · (1 + C) and 8 · 2 C bytes. Per backward pass:
    one sum over 8 · 2 C bytes. With one rank none: it is BatchNorm itself then, to the bit.

    S. Ioffe and C. Szegedy 2015, arXiv:1502.03167, equations of section 3, its sums over all
    ranks; merging by Chan, Golub and LeVeque 1979.

    Examples
    --------
    With two ranks (``mpiexec -n 2 python ...``)::

        comm = MPI.COMM_WORLD
        bn = npbn.distributed.SyncBatchNorm(256, comm=comm)
        y = bn(x)                   # of this rank's samples, by the statistics of both ranks'
    """

    input_shapes: ClassVar[dict[int, str]] = {
        2: "(N, C)",
        3: "(N, C, L)",
        4: "(N, C, H, W)",
        5: "(N, C, D, H, W)",
    }

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        comm: Any = None,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ):
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, dtype=dtype
        )
        self.comm = communicator(comm)

    @property
    def least_values(self) -> int:
        """Values per channel that a shard needs in training; those of all ranks need 2."""
        return BatchNorm.least_values if self.comm.size == 1 else 0

    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        if self.comm.size == 1:
            return super()._apply_in_training(x, weight, bias)
        who = f"{type(self).__name__}({self.num_features})"
        statistics = merged(batch_norm_stats(x), self.comm, f"{who} forward")
        if statistics.count == 1 and self.num_features:
            raise BatchSizeError(
                f"{who}: Expected more than 1 value per channel when training, got one in the "
                f"batches of all {self.comm.size} ranks together"
            )
        y, cache = batch_norm_elemt(x, statistics, weight, bias, self.eps)
        if self.track_running_stats:
            self._track(statistics)
        return y, SyncCache(cache, statistics.count)

    def _gradients(
        self, grad_output: np.ndarray, cache: Any, input_grad: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        if not isinstance(cache, SyncCache):  # of evaluation, or of one rank alone
            return super()._gradients(grad_output, cache, input_grad)
        shard, count = cache
        sums = np.stack(batch_norm_backward_reduce(grad_output, shard))
        grad_input = None
        if input_grad:
            what = f"{type(self).__name__}({self.num_features}) backward"
            total = self.comm.start_sum(sums.copy(), what).wait()
            grad_input = batch_norm_backward_elemt(grad_output, shard, count, *total)
        return grad_input, *sums


def merged(statistics: BatchStatistics, comm: Communicator, what: str) -> BatchStatistics:
    """Return the statistics of all ranks' batches together; the same bits on every rank."""
    reduce = gathered if comm.size <= GATHER else summed
    result = reduce(statistics, comm, what)
    if not np.isfinite(result.m2).all():
        mine = np.isfinite(statistics.mean).all() and np.isfinite(statistics.m2).all()
        raise_not_finite(comm, not mine, what)
    return result


@np.errstate(all="ignore")
def gathered(statistics: BatchStatistics, comm: Communicator, what: str) -> BatchStatistics:
    """Merge by gathering all statistics on every rank: for few ranks."""
    rows = comm.allgather(
        np.concatenate([[statistics.count], statistics.mean, statistics.m2]), what
    )
    counts, means, m2s = np.split(rows, [1, statistics.mean.size + 1], axis=1)
    moments = np.stack([means, np.zeros_like(means), m2s], axis=1)
    return merge_all(
        [BatchStatistics(int(n), m) for n, m in zip(counts[:, 0], moments, strict=True)]
    )


@np.errstate(all="ignore")
def summed(statistics: BatchStatistics, comm: Communicator, what: str) -> BatchStatistics:
    """Merge by two sums over the ranks, the mean's and then that of the deviations from it."""
    count, mean, m2 = statistics.count, statistics.mean, statistics.m2
    totals = comm.start_sum(np.concatenate([[count], count * mean]), f"{what}, mean").wait()
    total = int(totals[0])
    centre = totals[1:] / max(total, 1)
    sums = count * (mean - centre)
    parts = np.stack([sums, m2 + sums * (mean - centre)])
    sums, squares = comm.start_sum(parts, f"{what}, variance").wait()
    missed = sums / max(total, 1)
    m2 = np.maximum(squares - sums * missed, 0)
    return BatchStatistics(total, np.stack([*two_parts(centre, missed), m2]))
