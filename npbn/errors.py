"""The exceptions of npbn; each is also the builtin a caller would expect."""

__all__ = [
    "BackwardError",
    "BatchSizeError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DistributedError",
    "DtypeError",
    "NpbnError",
    "ShapeError",
    "StateDictError",
]


class NpbnError(Exception):
    """Base class of npbn's errors (arguments of a wrong value raise a plain ValueError)."""


class ShapeError(NpbnError, ValueError):
    """An array has the wrong rank, channel count or shape."""


class DtypeError(NpbnError, TypeError):
    """An array has a dtype that the operation does not take."""


class BatchSizeError(NpbnError, ValueError):
    """A batch has too few values per channel to measure statistics from."""


class StateDictError(NpbnError, RuntimeError):
    """A ``state_dict`` does not fit the module that was to load it."""


class BackwardError(NpbnError, RuntimeError):
    """``backward`` was called with no forward pass waiting for it."""


class DataError(NpbnError, ValueError):
    """A data set or one of its files is missing, damaged, empty or inconsistent."""


class CheckpointError(NpbnError, ValueError):
    """A file of a network's state is damaged, foreign, or not to be trusted."""


class ConfigError(NpbnError, ValueError):
    """A description fits no network, or a network cannot be described, folded or exported so."""


class DistributedError(NpbnError, RuntimeError):
    """Training on several processes cannot go on: one failed, is gone, or does something else."""
