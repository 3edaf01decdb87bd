"""Running statistics of a whole data set, for networks that are trained already."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npbn.errors import BatchSizeError, DataError
from npbn.functional.statistics import BatchStatistics, measure
from npbn.layers import Module
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.batch_renorm import BatchRenorm
from npbn.ranks import of_one_process

__all__ = ["update_batch_norm"]

NO_DATA = "update_batch_norm: expected a loader with data, got none"


def update_batch_norm(net: Module, loader: Iterable[Any], *, average_batches: bool = False) -> None:
    """Set every BatchNorm's running statistics to those of a data set.

    By default they are the population's: the mean, and the unbiased variance, of all that reaches
    the layer while the layers before it normalise by the population too, merged exactly from
    batches, so that neither their size nor their order matters beyond rounding. That takes one
    pass over the loader for every BatchNorm.

    A frozen BatchNorm (:meth:`npbn.Module.freeze`) keeps its statistics and normalises by them; so
    does one that no data reach. `num_batches_tracked` becomes the number of batches that are not
    empty; empty ones count for nothing.

    Parameters
    ----------
    net : Module
        Nothing but the statistics changes, and those when all is done: it is a copy that runs.
    loader : iterable of arrays x, or of tuples (x, ...)
        Iterated over once for each BatchNorm, or once in all with `average_batches`. Every pass
        has to give the same data: no shuffling that drops the last batch, nothing drawn.
    average_batches : bool
        True averages the statistics of batches, each weighing the same, while the network runs in
        training mode, in one pass: what torch's ``optim.swa_utils.update_bn`` does, but for empty
        batches, which it counts. ``BatchRenorm`` normalises by the batch alone meanwhile: there are
        no statistics yet to correct it towards.

    Raises
    ------
    DataError
        If the loader gives nothing but empty batches, or does in a later pass, as an iterator does.
    BatchSizeError
        If the data have one value per channel, whose variance is 0 whatever it is.
    DistributedError
        If the loader or the network is one of several ranks: see
        :func:`npbn.distributed.update_batch_norm`.

    Notes
    -----
    A BatchNorm that runs several times in a pass is measured by all that reaches it, while it
    normalises by the statistics it had. What reaches one after a BatchNorm without running
    statistics depends on the batches.

    Examples
    --------
    >>> from npbn import BatchNorm1d
    >>> bn = BatchNorm1d(1, dtype=np.float64)
    >>> update_batch_norm(bn, [np.array([[1.0], [2.0]]), np.array([[6.0]])])
    >>> bn.running_mean, bn.running_var
    (array([3.]), array([7.]))

    References
    ----------
    S. Ioffe and C. Szegedy, arXiv:1502.03167, algorithm 2, which averages over batches; Y. Wu and
    J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv:2105.07576, section 3.
    """
    of_one_process("update_batch_norm", loader, *net.modules())
    set_statistics(net, copy.deepcopy(net), loader, average_batches, OneProcess())


class OneProcess:
    """How the results of all ranks come together; :mod:`npbn.distributed` has that of several."""

    def batches(self, have_values: list[bool]) -> int:
        """Return how many batches had values on any rank."""
        return sum(have_values)

    def merge(self, statistics: BatchStatistics, norm: BatchNorm) -> BatchStatistics:
        """Return the statistics of what reached a layer on all ranks."""
        return statistics

    def average(self, norm: BatchNorm) -> None:
        """Turn a layer's averages into those over the batches of all ranks."""


def set_statistics(
    net: Module, twin: Module, loader: Iterable[Any], average_batches: bool, ranks: OneProcess
) -> None:
    """Set the statistics of `net` by running `twin`, a copy of it."""
    pairs = [
        (norm, its_twin)
        for norm, its_twin in zip(net.modules(), twin.modules(), strict=True)
        if isinstance(norm, BatchNorm) and norm.running_mean is not None and not norm.frozen
    ]
    if not pairs:
        return
    for norm, _ in pairs:
        norm.check_writeable()
    run = _average_batches if average_batches else _measure_populations
    run(twin, [its_twin for _, its_twin in pairs], loader, ranks)
    for norm, its_twin in pairs:
        if its_twin.num_batches_tracked == 0:  # no data reached it
            continue
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            getattr(norm, name)[...] = getattr(its_twin, name)


@np.errstate(all="ignore")
def _measure_populations(
    net: Module, norms: list[BatchNorm], loader: Iterable[Any], ranks: OneProcess
) -> None:
    """Set each layer's statistics to those of what reaches it in evaluation, in `net`, a copy."""
    nothing = BatchStatistics(0, np.zeros((3, 0)))
    ran: list[BatchNorm] = []  # in the order in which they run, which the first pass shows
    turn, seen = 0, nothing

    def observe(norm: BatchNorm, x: np.ndarray) -> None:
        nonlocal seen
        if norm not in ran:
            ran.append(norm)
        if norm is ran[turn]:
            seen = seen.merge(measure(x))

    for norm in norms:
        norm.observer = observe
    while turn == 0 or turn < len(ran):
        seen = nothing
        batches = ranks.batches(_pass(net.predict, loader))
        if batches == 0:
            raise DataError(
                "update_batch_norm: expected a loader with data in each of its "
                f"{len(ran)} passes, one for every BatchNorm, got none in number {turn + 1}; an "
                "iterator has one only: pass a list or a DataLoader, or average_batches=True"
                if turn
                else NO_DATA
            )
        if not ran:
            return
        seen = ranks.merge(seen, ran[turn])
        if seen.count < 2:
            raise BatchSizeError(
                "update_batch_norm: Expected more than 1 value per channel to measure, got "
                f"{seen.count}"
            )
        ran[turn].running_mean[...] = seen.mean
        ran[turn].running_var[...] = seen.unbiased_var
        ran[turn].num_batches_tracked[...] = batches
        turn += 1


def _average_batches(
    net: Module, norms: list[BatchNorm], loader: Iterable[Any], ranks: OneProcess
) -> None:
    """Set the layers' statistics to the average of the batches', in `net`, nobody else's."""
    net.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        if isinstance(norm, BatchRenorm):
            norm.r_max, norm.d_max = 1.0, 0.0  # those that were just reset are no aim
    if ranks.batches(_pass(net, loader)) == 0:
        raise DataError(NO_DATA)
    for norm in norms:
        ranks.average(norm)


def _pass(run: Callable[[Any], np.ndarray], loader: Iterable[Any]) -> list[bool]:
    """Run every batch; return of each whether it had values."""
    have_values = []
    for batch in loader:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        run(x)
        have_values.append(np.size(x) > 0)
    return have_values
