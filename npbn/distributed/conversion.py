"""Conversion of networks to synchronised BatchNorm, and back."""

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
KEPT = (SyncBatchNorm, GhostBatchNorm, BatchRenorm)  # of these, those that are not converted


def convert_sync_batch_norm(net: Module, comm: Any = None) -> Module:
    """Replace the BatchNorm layers of a network, in place, with :class:`SyncBatchNorm`.

    A new layer has the arguments, the mode, the parameters and the running statistics of the layer
    that it replaces; they are the same objects, so that an optimizer keeps its parameters. A layer
    that occurs twice is replaced by one. ``GhostBatchNorm`` and ``BatchRenorm`` layers, which are
    made for small batches, are not replaced.

    ``npbn.to_config`` describes the new layers as the layers they replaced.
    :func:`revert_sync_batch_norm` is the inverse.

    Parameters
    ----------
    net : Module
        If it is a BatchNorm layer itself, it is not changed.
    comm : mpi4py.MPI.Comm, Communicator, or None
        The ranks; None is ``MPI.COMM_WORLD``.

    Returns
    -------
    Module
        The network; for a BatchNorm layer, the new layer.

    Raises
    ------
    ConfigError
        If a layer is of a subclass with methods of its own for what BatchNorm computes, which would
        be lost; nothing has been changed then.
    """
    comm = communicator(comm)

    def synchronised(layer: BatchNorm, name: str) -> SyncBatchNorm:
        _check_plain(layer, PLAIN, f"convert_sync_batch_norm: {name}")
        sync = SyncBatchNorm(layer.num_features, comm=comm)
        _set_attributes(sync, layer.__getstate__())
        sync.described_as = type(layer)
        return sync

    return _replaced(net, _converts, synchronised)


def revert_sync_batch_norm(net: Module) -> Module:
    """Replace the :class:`SyncBatchNorm` layers of a network, in place, with what they were.

    It is the inverse of :func:`convert_sync_batch_norm`: the layers keep their parameters, running
    statistics and mode. It needs no other ranks.

    Parameters
    ----------
    net : Module
        For :class:`DataParallel`, its ``module``.

    Returns
    -------
    Module
        The network; for a SyncBatchNorm layer, the new layer.

    Raises
    ------
    ConfigError
        If a layer was made as a SyncBatchNorm: it takes inputs of several ranks, and has to name
        its class, as in ``layer.described_as = npbn.BatchNorm2d``. Or if it is of a subclass with
        methods of its own for what SyncBatchNorm computes, or described_as is no such class.
        Nothing has been changed then.
    """

    def reverted(layer: SyncBatchNorm, name: str) -> BatchNorm:
        who = f"revert_sync_batch_norm: {name}"
        _check_plain(layer, [SyncBatchNorm], who)
        kind: type[BatchNorm] | None = getattr(layer, "described_as", None)
        if kind is None:
            raise ConfigError(
                f"{who}: expected a layer that was converted, got one made as SyncBatchNorm; set "
                "its attribute described_as to what it is to become, npbn.BatchNorm1d, 2d or 3d"
            )
        if not (isinstance(kind, type) and issubclass(kind, PLAIN) and not issubclass(kind, KEPT)):
            raise ConfigError(
                f"{who}: expected described_as to be a class of BatchNorm layers, npbn.BatchNorm1d,"
                f" 2d, 3d or a subclass, got {kind!r}"
            )
        plain: Any = kind.__new__(kind)  # as `copy` does: a subclass may have another constructor
        state = layer.__getstate__()
        own = {"comm", "described_as"}
        _set_attributes(plain, {name: value for name, value in state.items() if name not in own})
        return plain  # type: ignore[no-any-return]

    return _replaced(net, lambda module: isinstance(module, SyncBatchNorm), reverted)


def _set_attributes(layer: BatchNorm, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(layer, name, value)


def _converts(module: Module) -> bool:
    return isinstance(module, BatchNorm) and not isinstance(module, KEPT)


def _check_plain(layer: BatchNorm, kinds: Sequence[type[BatchNorm]], who: str) -> None:
    """Raise ConfigError unless a layer computes what its class among these, the first, computes."""
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
    """Replace each layer by a new one; all are made before the first is replaced."""
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
