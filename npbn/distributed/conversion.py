"""Networks turned into synchronised ones, and back."""

from collections.abc import Callable, Sequence
from typing import Any

from npbn.distributed.mpi import communicator
from npbn.distributed.sync_batch_norm import SyncBatchNorm
from npbn.errors import ConfigError
from npbn.layers.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from npbn.layers.batch_renorm import BatchRenorm
from npbn.layers.ghost_batch_norm import GhostBatchNorm
from npbn.layers.module import Module
from npbn.layers.plain import own_behaviour

PLAIN = (BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNorm)


def convert_sync_batch_norm(net: Module, comm: Any = None) -> Module:
    """Turn the BatchNorm layers of a network into :class:`SyncBatchNorm`; return the network.

    In place: each layer is replaced by one with the same parameters and running statistics (the
    same objects, so that an optimizer goes on with them), arguments and mode; a layer that occurs
    twice by one. ``GhostBatchNorm`` and ``BatchRenorm`` layers, whose purpose it is to look at
    small batches, stay as they are. A network that is a BatchNorm layer itself is not changed: the
    new layer is returned.

    ``npbn.to_config`` describes the layers as what they were: a network made from that description,
    with the ``state_dict`` of this one, is one for one process, to be folded, exported or converted
    again. :func:`revert_sync_batch_norm` makes it of this one.

    Parameters
    ----------
    net : Module
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.

    Raises
    ------
    ConfigError
        If a layer is of a subclass of BatchNorm that computes something else (or may: it has
        methods of its own for it), which would be lost; nothing has been changed then.
    """
    comm = communicator(comm)

    def synchronised(layer: BatchNorm, name: str) -> SyncBatchNorm:
        _check_plain(layer, PLAIN, f"convert_sync_batch_norm: {name}")
        sync = SyncBatchNorm.__new__(SyncBatchNorm)
        vars(sync).update(layer.__getstate__(), comm=comm, described_as=type(layer))
        return sync

    return _replaced(net, _converts, synchronised)


def revert_sync_batch_norm(net: Module) -> Module:
    """Turn the :class:`SyncBatchNorm` layers of a network back into what they were; return it.

    The way back from :func:`convert_sync_batch_norm`, in the same manner: in place, with the same
    parameters and running statistics. It needs no ranks.

    Parameters
    ----------
    net : Module
        Of :class:`DataParallel`, give its ``module``.

    Raises
    ------
    ConfigError
        If a layer was not converted but made as a SyncBatchNorm, which takes inputs of any rank:
        ``layer.described_as = npbn.BatchNorm2d`` says what it is to be. Or if it is of a subclass
        that computes something else. Nothing has been changed then.
    """

    def reverted(layer: SyncBatchNorm, name: str) -> BatchNorm:
        who = f"revert_sync_batch_norm: {name}"
        _check_plain(layer, [SyncBatchNorm], who)
        state = layer.__getstate__()
        kind = state.pop("described_as", None)
        if kind is None:
            raise ConfigError(
                f"{who}: expected a layer that was converted, got one made as SyncBatchNorm; say "
                "what it is to be by its attribute described_as, npbn.BatchNorm1d, 2d or 3d"
            )
        del state["comm"]
        plain = kind.__new__(kind)
        vars(plain).update(state)
        return plain

    return _replaced(net, lambda module: isinstance(module, SyncBatchNorm), reverted)


def _converts(module: Module) -> bool:
    kept = SyncBatchNorm | GhostBatchNorm | BatchRenorm
    return isinstance(module, BatchNorm) and not isinstance(module, kept)


def _check_plain(layer: BatchNorm, kinds: Sequence[type[BatchNorm]], who: str) -> None:
    """Raise ConfigError unless a layer does what the first of these classes that it is of does."""
    kind = next(kind for kind in kinds if isinstance(layer, kind))
    name = own_behaviour(layer, kind)
    if name is not None:
        raise ConfigError(
            f"{who}: expected a layer that computes what {kind.__name__} does, got a "
            f"{type(layer).__name__} with a {name} of its own, which would be lost"
        )


def _replaced(
    net: Module, wanted: Callable[[Module], bool], make: Callable[[Any, str], Module]
) -> Module:
    """Replace layers, each by one; all are made before the first is replaced."""
    made = {
        id(module): make(module, name or "the layer")
        for name, module in net.named_modules()
        if wanted(module)
    }
    if id(net) in made:
        return made[id(net)]
    for module in list(net.modules()):
        for name, child in list(module._submodules()):
            if id(child) in made:
                setattr(module, name, made[id(child)])
    return net
