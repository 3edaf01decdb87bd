"""Running statistics of a whole data set, for a trained network."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npbn.arguments import check_bool
from npbn.errors import BatchSizeError, DataError
from npbn.functional.statistics import BatchStatistics, measure
from npbn.layers import Module
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.batch_renorm import BatchRenorm
from npbn.ranks import of_one_process

__all__ = ["update_batch_norm"]

NO_DATA = "update_batch_norm: expected a loader with data, got none"


def update_batch_norm(net: Module, loader: Iterable[Any], *, average_batches: bool = False) -> None:
    """Set the running statistics of each BatchNorm to those of a data set.

    By default they are the population statistics: mean and unbiased variance of all values that
    reach the layer, while the layers before it normalise by their population statistics. They are
    merged exactly from batches: size and order of the batches matter only for rounding. This
    takes one pass over the loader for each BatchNorm.

    A frozen BatchNorm (:meth:`npbn.Module.freeze`) and one that no data reach keep their
    statistics; one without running statistics (``track_running_stats=False``) gets none, as in
    torch. `num_batches_tracked` becomes the number of batches that are not empty; with
    `average_batches` a BatchNorm counts each of its calls, and each ghost.

    Parameters
    ----------
    net : Module
        Only its statistics change, at the end: a copy of the network runs.
    loader : iterable of arrays x, or of tuples (x, ...)
        Iterated over once for each BatchNorm, or once in all with `average_batches`. Each pass
        has to give the same data, in any order: not shuffled with a last batch left out, and not
        augmented at random.
    average_batches : bool
        True averages the statistics of batches, with equal weights, while the network runs in
        training mode, in one pass. This is torch's ``optim.swa_utils.update_bn``, which however
        counts empty batches. ``BatchRenorm`` then normalises by the batch without a correction.

    Raises
    ------
    DataError
        If all batches of a pass are empty, or there are none, as in the second pass over an
        iterator.
    BatchSizeError
        If the data have one value per channel: its variance is 0 for any value.
    ValueError
        If running statistics are read-only, or `average_batches` is not a bool.
    DistributedError
        If the loader or the network is one of several ranks: use
        :func:`npbn.distributed.update_batch_norm`.

    Notes
    -----
    The statistics of a BatchNorm that runs several times in a pass are those of all its inputs,
    while it normalises by its former statistics. The inputs of a layer after a BatchNorm without
    running statistics depend on the batches.

    References
    ----------
    S. Ioffe and C. Szegedy, arXiv:1502.03167, algorithm 2, which averages over batches; Y. Wu and
    J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv:2105.07576, section 3.

    Examples
    --------
    >>> from npbn import BatchNorm1d
    >>> bn = BatchNorm1d(1, dtype=np.float64)
    >>> update_batch_norm(bn, [np.array([[1.0], [2.0]]), np.array([[6.0]])])
    >>> bn.running_mean, bn.running_var
    (array([3.]), array([7.]))
    """
    check_bool("update_batch_norm", "average_batches", average_batches)
    of_one_process("update_batch_norm", loader, net)
    set_statistics(net, copy.deepcopy(net), loader, average_batches, OneProcess())


class OneProcess:
    """Combines the results of all ranks, here of one; :mod:`npbn.distributed` has several."""

    def batches(self, have_values: list[bool]) -> int:
        """Return the number of batches that had values on any rank."""
        return sum(have_values)

    def merge(self, statistics: BatchStatistics, norm: BatchNorm) -> BatchStatistics:
        """Return the statistics of a layer's inputs on all ranks."""
        return statistics

    def average(self, norm: BatchNorm) -> None:
        """Average a layer's running statistics over the batches of all ranks, in place."""


def set_statistics(
    net: Module, twin: Module, loader: Iterable[Any], average_batches: bool, ranks: OneProcess
) -> None:
    """Set the statistics of `net` by running `twin`, a copy of it."""
    pairs = [
        (norm, its_twin)
        for norm, its_twin in zip(net.modules(), twin.modules(), strict=True)
        if isinstance(norm, BatchNorm) and isinstance(its_twin, BatchNorm)
        if norm.running_mean is not None and not norm.frozen
    ]
    if not pairs:
        return
    for norm, its_twin in pairs:
        norm.check_writeable()
        if its_twin.num_batches_tracked is None:  # counted in the copy alone
            its_twin.num_batches_tracked = np.array(0, np.int64)
    run = _average_batches if average_batches else _measure_populations
    run(twin, [its_twin for _, its_twin in pairs], loader, ranks)
    for norm, its_twin in pairs:
        mean, var, seen = its_twin.running_mean, its_twin.running_var, its_twin.num_batches_tracked
        if mean is not None and var is not None and seen:  # else no data reached it
            norm.write_running_stats(mean, var, seen)


def _measure_populations(
    net: Module, norms: list[BatchNorm], loader: Iterable[Any], ranks: OneProcess
) -> None:
    """Set each layer's statistics to those of its inputs in evaluation, in `net`, a copy."""
    nothing = BatchStatistics(0, np.zeros((3, 0)))
    ran: list[BatchNorm] = []  # in the order in which they run, known after the first pass
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
                f"update_batch_norm: expected a loader with data in each of {len(ran)} passes, one "
                f"for each BatchNorm, got none in pass {turn + 1}; an iterator gives its data only "
                "once: use a list or a DataLoader, or average_batches=True"
                if turn
                else NO_DATA
            )
        if not ran:
            return
        seen = ranks.merge(seen, ran[turn])
        if seen.count < 2:
            raise BatchSizeError(
                f"update_batch_norm: Expected more than 1 value per channel, got {seen.count}"
            )
        ran[turn].write_running_stats(seen.mean, seen.unbiased_var, batches)
        turn += 1


def _average_batches(
    net: Module, norms: list[BatchNorm], loader: Iterable[Any], ranks: OneProcess
) -> None:
    """Set the layers' statistics to the averages over the batches, in `net`, a copy."""
    net.train()
    for norm in norms:
        norm.track_running_stats = True
        norm.reset_running_stats()
        norm.momentum = None
        if isinstance(norm, BatchRenorm):
            norm.r_max, norm.d_max = 1.0, 0.0  # no correction: the statistics have been reset
    if ranks.batches(_pass(net, loader)) == 0:
        raise DataError(NO_DATA)
    for norm in norms:
        ranks.average(norm)


def _pass(run: Callable[[Any], np.ndarray], loader: Iterable[Any]) -> list[bool]:
    """Run each batch; return for each whether it had values."""
    have_values = []
    for batch in loader:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        run(x)
        have_values.append(np.size(x) > 0)
    return have_values
