"""The constructor arguments of layers: read from a layer, checked, and used to make a layer."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from npbn import layers
from npbn.arguments import check_integer
from npbn.errors import ConfigError, NpbnError
from npbn.functional.windows import pair
from npbn.io.quoting import printable, quoted
from npbn.layers import Conv2d, Identity, Linear, Module, ModuleList, Sequential
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.plain import float_dtypes

if TYPE_CHECKING:
    import inspect

# The layers that a description may name: all of npbn's except base classes, losses and containers.
TYPES: dict[str, type[Module]] = {
    kind.__name__: kind
    for kind in (getattr(layers, name) for name in layers.__all__)
    if issubclass(kind, Module) and kind not in (Module, ModuleList, Sequential)
}

_SIZES = {"in_features", "out_features", "in_channels", "out_channels", "groups", "num_features"}

Shapes = dict[str, tuple[int, ...]]


@cache  # a file may describe any number of layers
def _signature(type_name: str) -> inspect.Signature:
    import inspect  # takes 8 ms to load, which `import npbn` does not need

    return inspect.signature(TYPES[type_name])


def _argument_names(kind: type[Module]) -> list[str]:
    """Return the names of a layer's arguments, without the generator."""
    if kind is Identity:  # accepts any arguments and ignores them
        return []
    return [name for name in _signature(kind.__name__).parameters if name != "rng"]


def arguments_of(layer: Module, kind: type[Module]) -> dict[str, Any]:
    """Return the arguments that make a layer like this one, as JSON can hold them."""
    return {name: _argument(layer, name) for name in _argument_names(kind)}


def _argument(layer: Module, name: str) -> Any:
    """Return one argument; the layer's arrays decide, as they may have been removed since."""
    match name:
        case "dtype":
            return str(next(iter(float_dtypes(layer)), "float32"))
        case "bias":
            return getattr(layer, name) is not None
        case "affine":
            return vars(layer).get("weight") is not None
        case "track_running_stats":
            return vars(layer).get("running_mean") is not None
    return _as_json(getattr(layer, name))


def _as_json(value: Any) -> Any:
    """Return a list for a tuple, and Python's number for NumPy's."""
    if isinstance(value, tuple | list):
        return [_as_json(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def checked_arguments(
    kind: type[Module], arguments: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the arguments with tuples for lists; raise ConfigError on one the layer does not have.

    The values are checked by the layer's constructor.
    """
    known = _argument_names(kind)
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ConfigError(
            f"{where}: {kind.__name__} takes no {', '.join(map(quoted, unknown[:5]))}"
        )
    dtype = arguments.get("dtype", "float32")
    if not isinstance(dtype, str):  # NumPy takes None for float64
        raise ConfigError(f"{where}: expected the name of a dtype, got {quoted(dtype)}")
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in ((name, _as_json(value)) for name, value in arguments.items())
    }


def make_layer(
    kind: type[Module], arguments: Mapping[str, Any], where: str, rng: np.random.Generator
) -> Module:
    """Return a layer made with these arguments, or raise ConfigError."""
    draws = {"rng": rng} if "rng" in _signature(kind.__name__).parameters else {}
    try:
        return kind(**arguments, **draws)
    except (NpbnError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{where}: {printable(str(error), 500)}") from error


def shapes_of(kind: type[Module], arguments: Mapping[str, Any], where: str, prefix: str) -> Shapes:
    """Return keys and shapes of the arrays of a layer made with these arguments, making none."""
    try:
        bound = _signature(kind.__name__).bind(**arguments)
        bound.apply_defaults()
        shapes = _shapes_of(kind, bound.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {printable(str(error), 500)}") from error
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def _shapes_of(kind: type[Module], arguments: Mapping[str, Any]) -> Shapes:
    for name in _SIZES & arguments.keys():
        check_integer(kind.__name__, name, arguments[name], least=int(name == "groups"))
    shapes: Shapes = {}
    if issubclass(kind, Linear):
        shapes["weight"] = (arguments["out_features"], arguments["in_features"])
    elif issubclass(kind, Conv2d):
        kernel = pair(kind.__name__, "kernel_size", arguments["kernel_size"], 1)
        inputs = arguments["in_channels"] // arguments["groups"]
        shapes["weight"] = (arguments["out_channels"], inputs, *kernel)
    elif issubclass(kind, BatchNorm):
        features = (arguments["num_features"],)
        if arguments.get("affine", True):
            shapes["weight"] = features
        if arguments.get("track_running_stats", True):
            shapes |= {"running_mean": features, "running_var": features, "num_batches_tracked": ()}
    if "weight" in shapes and arguments["bias"]:
        shapes["bias"] = shapes["weight"][:1]
    return shapes
