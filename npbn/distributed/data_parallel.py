"""One network on several processes, each of which has a shard of every batch."""

from itertools import chain, zip_longest
from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.distributed.buckets import Buckets
from npbn.distributed.communicator import agree, broadcast_text
from npbn.distributed.mpi import communicator
from npbn.distributed.sync_batch_norm import SyncBatchNorm
from npbn.errors import DistributedError
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.loss import CrossEntropyLoss, MSELoss
from npbn.layers.module import Module
from npbn.layers.rollback import recording


class DataParallel(Module):
    """A network of which each rank has a copy; the ranks train it on shards of each batch.

    All ranks start with the parameters and statistics of rank 0. `backward` gives every rank the
    gradients of the loss of the whole batch, the same bit for bit, so that optimizers with the
    same options keep the copies equal. For a mean over N samples, n of them on this rank::

        gradient = Σ over ranks of  n / N · gradient of the mean on the rank

    The factor is applied before the backward pass, in which synchronised BatchNorm combines the
    gradients of all ranks. An average of the ranks' gradients would be wrong for shards of
    different sizes. A rank without samples runs on an empty batch and adds zeros. If BatchNorm
    layers are not synchronised (:func:`convert_sync_batch_norm`), each rank normalises by its own
    shard, and all use rank 0's running statistics, as in torch's ``DistributedDataParallel``.

    Parameters
    ----------
    net : Module
        With the same layers, dtypes and options on all ranks; initial values may differ.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.

    Attributes
    ----------
    module : Module
        `net`. Keys of the ``state_dict`` begin with ``module.``, as in torch; save that of
        ``net.module``, on rank 0.
    loss : float or None
        The loss over all ranks of the latest `backward` with a criterion.
    denominator : float
        What that mean was divided by, over all ranks; 1 for a sum.

    Raises
    ------
    DistributedError
        If a rank has another network; the message has the rank and the first difference.

    Notes
    -----
    Messages per step, with more than one rank: a gather of 8 · 4 bytes per rank before the
    backward pass; a sum for each gradient of 256 KB or more, and for the others in buckets of up
    to 256 KB, each sent when it is complete; and those of :class:`SyncBatchNorm`, two for each
    such layer. The sums have the dtype of the parameters (float32 for float16) and as many bytes
    as they. Without synchronised BatchNorm, one broadcast of all running statistics.

    Examples
    --------
    With ``mpiexec -n 2 python ...``::

        net = npbn.distributed.convert_sync_batch_norm(npbn.MLP())
        net = npbn.distributed.DataParallel(net)
        optimizer = npbn.SGD(net.parameters(), lr=0.01)
        for x, target in npbn.distributed.DataLoader(dataset, batch_size=64):
            loss, _ = npbn.distributed.train_step(net, x, target, criterion, optimizer)
    """

    def __init__(self, net: Module, comm: Any = None):
        self.comm = communicator(comm)
        self.module = net
        self.loss: float | None = None
        self.denominator = 1.0
        if self.comm.size == 1:
            return
        mine = description(net).splitlines()
        theirs = broadcast_text(self.comm, "\n".join(mine), "DataParallel").splitlines()
        differences = (
            f"expected rank 0's network, which has {b!r}, got {a!r}"
            for a, b in zip_longest(mine, theirs, fillvalue="nothing more")
            if a != b
        )
        fixed = (
            f"expected arrays that can be written to, got a read-only {key}"
            for key, array in net._state()
            if not array.flags.writeable
        )
        agree(self.comm, next(chain(differences, fixed), ""), "DataParallel")
        for array in {id(a): a for _, a in net._state()}.values():
            same = np.ascontiguousarray(array)
            self.comm.broadcast(same, "DataParallel")
            array[...] = same
        for parameter in net.parameters():
            parameter.changed()

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        y, cache = self.module._apply(x, predict)
        if self.training and not predict:
            self._share_statistics()
        return y, cache

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        return self.module._backward(grad_output, cache, input_grad)

    def _share_statistics(self) -> None:
        """Copy rank 0's running statistics of layers that are not synchronised."""
        if self.comm.size == 1:
            return
        norms = [
            module
            for module in self.modules()
            if isinstance(module, BatchNorm) and not isinstance(module, SyncBatchNorm)
        ]
        for norm in norms:
            norm.check_writeable()
        arrays = [buffer for norm in norms for buffer in norm.buffers()]
        if arrays:
            if recording.changes is not None:
                recording.changes += [(array, array.copy()) for array in arrays]
            flat = np.concatenate([a.ravel().astype(np.float64) for a in arrays])
            self.comm.broadcast(flat, "running statistics")
            cuts = np.cumsum([a.size for a in arrays])[:-1]
            for array, part in zip(arrays, np.split(flat, cuts), strict=True):
                array[...] = part.reshape(array.shape)

    def backward(
        self,
        grad_output: ArrayLike,
        input_grad: bool = True,
        criterion: CrossEntropyLoss | MSELoss | None = None,
    ) -> np.ndarray | None:
        """Accumulate the gradients of the whole batch's loss; return that of the shard's input.

        Parameters
        ----------
        grad_output : ndarray, shape and dtype of the output
            Gradient of this rank's loss.
        input_grad : bool
            False returns None; the first layer then does not compute it.
        criterion : CrossEntropyLoss or MSELoss, optional
            The loss that the gradient belongs to. A rank's weight is what its mean was divided by,
            which depends on ``ignore_index`` and class weights; sums are added. Without it the
            loss is taken for a mean over samples.

        Returns
        -------
        ndarray, shape of the shard's input, or None
            Gradient of the whole batch's loss with respect to the input.

        Raises
        ------
        DistributedError
            If the loss or the gradients of a rank are NaN or infinite, or a rank failed, ended or
            is at another exchange; the message has the rank.
        BackwardError, ShapeError, DtypeError
            As in :class:`npbn.Module`.
        """
        grad_output = np.asarray(grad_output)
        if self.comm.size == 1:
            self.loss = None if criterion is None else criterion.loss
            self.denominator = len(grad_output) if criterion is None else criterion.denominator
            return super().backward(grad_output, input_grad)
        grad_output = grad_output * grad_output.dtype.type(self._share(grad_output, criterion))
        with Buckets(self.module, self.comm):
            return super().backward(grad_output, input_grad)

    def _share(
        self, grad_output: np.ndarray, criterion: CrossEntropyLoss | MSELoss | None
    ) -> float:
        """Return the factor of this rank's gradient; set the loss of all ranks."""
        reduction = "mean" if criterion is None else criterion.reduction
        mine = len(grad_output) if criterion is None else criterion.denominator
        # Divided by 0 a loss is NaN. That is an error only if the gradient is NaN too: then there
        # are terms, by label smoothing, of targets whose class weights are 0.
        if criterion is None or criterion.loss is None or not mine:
            loss = 0.0 if np.isfinite(grad_output).all() else np.nan
        else:
            loss = float(np.sum(criterion.loss))
        parts = self.comm.allgather(np.array([mine, loss, reduction == "mean"]), "loss").tolist()
        means = [mean for _, _, mean in parts]
        if len(set(means)) > 1:
            raise DistributedError(
                f"loss: expected one reduction on all ranks, got 'mean' on {np.flatnonzero(means)}"
            )
        broken = [f"rank {r}: loss {x}" for r, (_, x, _) in enumerate(parts) if not isfinite(x)]
        if broken:
            raise DistributedError(f"expected a finite loss on all ranks, got {'; '.join(broken)}")
        self.denominator = total = sum(count for count, _, _ in parts)
        if reduction != "mean":
            self.denominator = 1.0
            self.loss = sum(loss for _, loss, _ in parts)
            return 1.0
        if criterion is not None:
            self.loss = sum(count * loss for count, loss, _ in parts) / (total or nan)
        return mine / total if total else 0.0


def description(net: Module) -> str:
    """Return lines that have to be the same on all ranks: layers, options and arrays."""
    options = [f"{name}: {repr(m).splitlines()[0]}" for name, m in net.named_modules()]
    arrays = [f"{key} {array.shape} {array.dtype}" for key, array in net._state()]
    frozen = [f"{name} frozen" for name, p in net.named_parameters() if not p.requires_grad]
    return "\n".join(options + arrays + frozen)
