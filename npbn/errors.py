"""The exceptions of npbn; each is also one of Python's."""

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
    """Base class of npbn's errors.

    An argument that is out of range or of the wrong kind raises a plain ValueError, an object of
    the wrong class (a layer, a generator, a data set) a plain TypeError.
    """


class ShapeError(NpbnError, ValueError):
    """An array has the wrong rank, channel count or shape."""


class DtypeError(NpbnError, TypeError):
    """An array has a dtype that the operation does not take."""


class BatchSizeError(NpbnError, ValueError):
    """A batch has too few values per channel to measure statistics from."""


class StateDictError(NpbnError, RuntimeError):
    """A ``state_dict`` does not fit the module that was to load it."""


class BackwardError(NpbnError, RuntimeError):
    """``backward`` was called without a pending forward pass."""


class DataError(NpbnError, ValueError):
    """A data set or one of its files is missing, damaged, empty or inconsistent."""


class CheckpointError(NpbnError, ValueError):
    """A file with a state is damaged, of another kind, or unsafe to load."""


class ConfigError(NpbnError, ValueError):
    """A description fits no network, or a network cannot be described, folded or exported."""


class DistributedError(NpbnError, RuntimeError):
    """Training on several processes failed on one of them, or they are at different steps."""
