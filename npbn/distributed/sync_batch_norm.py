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

# Up to so many ranks, each rank gathers the statistics of all and merges them: one message each,
# whose size grows with P. With more, two sums over the ranks, whose size does not. At 256 channels
# gathering and summing take 53 µs each on 16 ranks, 113 and 80 µs on 64, computed with the latency
# and bandwidth between two ranks of one machine (benchmarks/results/ranks.md); with 10 Gbit/s they
# are equal between 32 and 64 ranks.
GATHER = 16


class SyncCache(NamedTuple):
    """What the backward pass of training needs: the shard's cache, and the count of all ranks."""

    shard: BatchNormCache
    count: int  # type: ignore[assignment]  # in place of tuple.count


class SyncBatchNorm(BatchNorm):
    """Batch normalisation over the shards of all ranks; torch's ``nn.SyncBatchNorm``, on CPUs.

    In training the statistics of the shards are merged: every rank normalises as one process
    normalises the whole batch, and has the same running statistics. The gradient of the input
    takes into account that the statistics depend on the shards of all ranks. The gradients of
    weight and bias are those of the shard; :class:`DataParallel` adds them. Shards may differ in
    size and may be empty, if the whole batch has more than one value per channel. Evaluation is
    that of :class:`npbn.BatchNorm1d`, without messages.

    Parameters
    ----------
    num_features : int
        C, the number of channels of inputs (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all batches since the last reset alike; unlike torch it does not
        count empty batches, which have no statistics.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    track_running_stats : bool
        False keeps no running statistics: evaluation then normalises by the rank's shard.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``. All have to run the same layers in the same order.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, eps, momentum, affine, track_running_stats
        The arguments.
    comm : Communicator
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,), or None
        At first 0 and 1.
    num_batches_tracked : ndarray, shape (), int64, or None
        Batches seen; with momentum None, those that were not empty.

    Raises
    ------
    ValueError
        On an argument of the wrong kind. In training, if `eps` is not above 0 or running
        statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On all ranks, if the whole batch has one value per channel in training.
    DistributedError
        If another rank failed, ended or is at another exchange, or if statistics are NaN or
        infinite; the message has the rank.

    Notes
    -----
    Messages per forward pass in training: up to 16 ranks (``GATHER``) a gather of 8 · (2 + 2 C)
    bytes from each rank (count, mean, m2, and a checksum of the exchange). With more ranks two
    sums, of 8 · (1 + C) and 8 · 2 C bytes. Per backward pass: a sum of 8 · 2 C bytes. One rank
    sends none and computes what BatchNorm does, bit for bit.

    References
    ----------
    S. Ioffe and C. Szegedy, 2015, arXiv:1502.03167, section 3, with sums over all ranks; T. Chan,
    G. Golub and R. LeVeque, 1979, for merging.

    Examples
    --------
    With two ranks (``mpiexec -n 2 python ...``)::

        comm = MPI.COMM_WORLD
        bn = npbn.distributed.SyncBatchNorm(256, comm=comm)
        y = bn(x)                   # this rank's samples, by the statistics of all
    """

    described_as: type[BatchNorm]  # the class of the layer that it has replaced, if it has
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
        """Values per channel that a shard needs in training; the whole batch needs 2."""
        return super().least_values if self.comm.size == 1 else 0

    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        if self.comm.size == 1:
            return super()._apply_in_training(x, weight, bias)
        who = self._who()
        statistics = merged(batch_norm_stats(x), self.comm, f"{who} forward")
        if statistics.count == 1 and self.num_features:
            raise BatchSizeError(
                f"{who}: Expected more than 1 value per channel when training, got one in the "
                f"batches of all {self.comm.size} ranks together"
            )
        y, shard = batch_norm_elemt(x, statistics, weight, bias, self.eps)
        cache = SyncCache(shard, statistics.count)
        if self.track_running_stats:
            self._track(statistics)
        return y, cache

    def _gradients(
        self, grad_output: np.ndarray, cache: Any, input_grad: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        if not isinstance(cache, SyncCache):  # of evaluation, or of one rank alone
            return super()._gradients(grad_output, cache, input_grad)
        shard, count = cache
        sums = np.stack(batch_norm_backward_reduce(grad_output, shard))
        grad_input = None
        if input_grad:
            total = self.comm.start_sum(sums.copy(), f"{self._who()} backward").wait()
            grad_input = batch_norm_backward_elemt(grad_output, shard, count, total[0], total[1])
        return grad_input, sums[0], sums[1]


def merged(statistics: BatchStatistics, comm: Communicator, what: str) -> BatchStatistics:
    """Return the statistics of the whole batch; they are the same, bit for bit, on every rank."""
    reduce = gathered if comm.size <= GATHER else summed
    result = reduce(statistics, comm, what)
    if not np.isfinite(result.m2).all():
        mine = np.isfinite(statistics.mean).all() and np.isfinite(statistics.m2).all()
        raise_not_finite(comm, not mine, what)
    return result


@np.errstate(all="ignore")
def gathered(statistics: BatchStatistics, comm: Communicator, what: str) -> BatchStatistics:
    """Merge statistics by gathering those of all ranks on each rank: for few ranks."""
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
    """Merge statistics by two sums over the ranks, for the mean and for deviations from it."""
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
