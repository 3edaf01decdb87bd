"""Networks as plain data, out and in."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np
from numpy.typing import ArrayLike

from npbn import layers
from npbn.errors import ConfigError, NpbnError
from npbn.functional.windows import pair
from npbn.layers import Conv2d, Identity, Linear, Module, ModuleList, Parameter, Sequential
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.plain import computes, float_dtypes
from npbn.layers.state import check_shapes
from npbn.quoting import printable, quoted
from npbn.rng import generator

if TYPE_CHECKING:
    import inspect

__all__ = ["from_config", "to_config"]

# What a description may name: every layer there is, but for bases, losses and containers.
TYPES = {
    kind.__name__: kind
    for kind in (getattr(layers, name) for name in layers.__all__)
    if issubclass(kind, Module) and kind not in (Module, ModuleList, Sequential)
}

Shapes = dict[str, tuple[int, ...]]


def to_config(net: Module) -> dict[str, Any]:
    """Describe a network as plain data: dicts, lists, strings, numbers, True, False and None.

    The architecture alone: parameters, statistics, modes, what is frozen and the state of
    generators are not in it. Of subclasses of Sequential, such as :class:`npbn.MLP`, it is the
    layers that are described.

    Parameters
    ----------
    net : Module
        A layer of npbn's, or a Sequential of such, nested or not.

    Raises
    ------
    ConfigError
        On a layer that is not npbn's (or a Sequential that runs its layers in a way of its own),
        on a layer or a Parameter that occurs twice, and on arrays that no layer of npbn's is made
        with, such as a bias beside a weight that was set to None.

    Examples
    --------
    >>> from npbn import Linear, ReLU
    >>> to_config(Sequential(Linear(2, 3), ReLU()))["layers"]["1"]
    {'type': 'ReLU'}
    >>> to_config(Linear(2, 3))
    {'type': 'Linear', 'in_features': 2, 'out_features': 3, 'bias': True, 'dtype': 'float32'}
    """
    if not isinstance(net, Module):
        raise ConfigError(f"to_config: expected a Module, got {type(net).__name__}")
    names: dict[int, str] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        own = ((f"{path}.{name}", parameter) for name, parameter in module._own(Parameter))
        for name, thing in ((path, module), *own):
            if names.setdefault(id(thing), name) != name:
                raise ConfigError(
                    f"to_config: {names[id(thing)]!r} and {name!r} are the same "
                    f"{type(thing).__name__}, which a description cannot say"
                )
    try:
        config = _described(net, "")
        expected = state_shapes(config)
    except RecursionError:
        raise ConfigError("to_config: the network is nested too deeply") from None
    shapes = {key: array.shape for key, array in net._state()}
    for key in dict.fromkeys([*expected, *shapes]):
        came, made = shapes.get(key, "no array"), expected.get(key, "no array")
        if came != made:
            raise ConfigError(
                f"to_config: {key!r} is {came}, where a layer of such arguments has {made}"
            )
    return config


def _described(module: Module, path: str) -> dict[str, Any]:
    if computes(module, Sequential):
        parts = {name: _described(m, f"{path}{name}.") for name, m in module.named_children()}
        return {"type": "Sequential", "layers": parts}
    # A layer that works for several processes is, without them, the one it was made from.
    kind = getattr(module, "described_as", type(module))
    if TYPES.get(kind.__name__) is not kind or not computes(module, type(module)):
        raise ConfigError(
            f"to_config: expected layers of npbn's, got {kind.__name__}"
            f"{f' as {path[:-1]!r}' if path else ''}"
        )
    return {"type": kind.__name__, **{name: _value(module, name) for name in _options(kind)}}


@cache  # a file may describe any number of layers
def _signature(kind: type[Module]) -> inspect.Signature:
    import inspect  # takes 8 ms to load, which `import npbn` need not

    return inspect.signature(kind)


@cache
def _hints(kind: type[Module]) -> dict[str, Any]:
    return {**get_type_hints(kind.__init__), "dtype": str}


def _options(kind: type[Module]) -> list[str]:
    """Return the names of a layer's arguments, but for its generator."""
    if kind is Identity:  # takes anything and means nothing by it
        return []
    return [name for name in _signature(kind).parameters if name != "rng"]


def _value(module: Module, name: str) -> Any:
    """Return what an argument would be now: arrays may have been taken away since."""
    match name:
        case "dtype":
            return str(next(iter(float_dtypes(module)), "float32"))
        case "bias":
            return module.bias is not None
        case "affine":
            return module.weight is not None
        case "track_running_stats":
            return module.running_mean is not None
    return _plain(getattr(module, name))


def _plain(value: Any) -> Any:
    """Return what JSON has for tuples and for NumPy's numbers."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def from_config(
    config: Mapping[str, Any],
    *,
    state: Mapping[str, ArrayLike] | None = None,
    rng: np.random.Generator | None = None,
) -> Module:
    """Build the network that :func:`to_config` described, its parameters drawn anew.

    Parameters
    ----------
    config : mapping
        As from JSON: lists stand for tuples too.
    state : mapping of key to array_like, optional
        The ``state_dict`` to load into it. Its shapes are compared first, so that what a file
        describes is not made where it does not hold the arrays.
    rng : numpy.random.Generator, optional
        Source of the initial values, and what every Dropout draws from.

    Raises
    ------
    ConfigError
        If it describes no network; the message names the layer.
    StateDictError
        If the state is not that network's.

    Examples
    --------
    >>> net = from_config({"type": "Sequential", "layers": {"0": {"type": "ReLU"}}})
    >>> net
    Sequential(
      (0): ReLU()
    )
    """
    try:
        if state is None:
            return _built(config, "", generator(rng))
        check_shapes("from_config", state_shapes(config), state)
        net = _built(config, "", generator(rng))
    except RecursionError:
        raise ConfigError("from_config: the network is nested too deeply") from None
    net.load_state_dict(state)
    return net


def state_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return keys and shapes of a described network's ``state_dict``, making no array."""
    return dict(_shapes(config, ""))


def _shapes(config: Any, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    where, kind, options = _taken(config, path)
    if kind is Sequential:
        for name, part in options.items():
            yield from _shapes(part, f"{path}{name}.")
    else:
        yield from arrays_of(kind, checked_options(kind, options, where), where, path).items()


def _built(config: Any, path: str, rng: np.random.Generator) -> Module:
    where, kind, options = _taken(config, path)
    if kind is Sequential:
        built = {name: _built(m, f"{path}{name}.", rng) for name, m in options.items()}
        return sequential_of(built, where)
    return layer_of(kind, checked_options(kind, options, where), where, rng)


def _taken(config: Any, path: str) -> tuple[str, type[Module], Mapping[str, Any]]:
    """Return where a description stands, the class, and its arguments or a Sequential's layers."""
    where = f"from_config{f': {printable(path[:-1])}' if path else ''}"
    if not isinstance(config, Mapping) or not isinstance(config.get("type"), str):
        raise ConfigError(f"{where}: expected a mapping with a 'type', got {quoted(config)}")
    options = {name: value for name, value in config.items() if name != "type"}
    if config["type"] == "Sequential":
        parts = options.get("layers")
        if not isinstance(parts, Mapping) or len(options) > 1:
            raise ConfigError(f"{where}: expected 'layers' by name and nothing else")
        return where, Sequential, parts
    kind = TYPES.get(config["type"])
    if kind is None:
        raise ConfigError(
            f"{where}: expected one of Sequential, {', '.join(TYPES)}, got {quoted(config['type'])}"
        )
    return where, kind, options


def sequential_of(parts: Mapping[str, Module], where: str) -> Sequential:
    """Return the layers as a Sequential, or raise ConfigError."""
    try:
        return Sequential(parts)
    except KeyError as error:  # a name that cannot be
        raise ConfigError(f"{where}: {printable(error.args[0])}") from error


def checked_options(kind: type[Module], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a layer's arguments as Python has them, or raise ConfigError.

    Of those that layers take on trust the types are compared with the hints of the constructor.
    """
    known = _options(kind)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(
            f"{where}: {kind.__name__} takes no {', '.join(map(quoted, unknown[:5]))}"
        )
    hints = _hints(kind)
    options = {name: _plain(value) for name, value in options.items()}
    for name, value in options.items():
        if type(value) not in _accepted(hints[name], value):
            hint = str(hints[name]) if get_args(hints[name]) else hints[name].__name__
            raise ConfigError(
                f"{where}: {kind.__name__} takes {name} as {hint}, got {quoted(value)}"
            )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _accepted(hint: Any, value: Any) -> tuple[type, ...]:
    """Return the types that a hint allows; of one with tuples in it, which layers check, any."""
    kinds = get_args(hint) or (hint,)
    if not all(kind in (bool, int, float, str, NoneType) for kind in kinds):
        return (type(value),)
    return (*kinds, int) if float in kinds else kinds


def layer_of(
    kind: type[Module], options: Mapping[str, Any], where: str, rng: np.random.Generator
) -> Module:
    """Return a layer of arguments that have been checked, or raise ConfigError."""
    draws = {"rng": rng} if "rng" in _signature(kind).parameters else {}
    try:
        return kind(**options, **draws)
    except (NpbnError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{where}: {error}") from error


def arrays_of(kind: type[Module], options: Mapping[str, Any], where: str, path: str) -> Shapes:
    """Return keys and shapes of a layer's arrays, which its arguments tell."""
    try:
        bound = _signature(kind).bind(**options)
        bound.apply_defaults()
        shapes = _arrays_of(kind, bound.arguments)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return {f"{path}{name}": shape for name, shape in shapes.items()}


def _arrays_of(kind: type[Module], told: Mapping[str, Any]) -> Shapes:
    shapes: Shapes = {}
    if issubclass(kind, Linear):
        shapes["weight"] = (told["out_features"], told["in_features"])
    elif issubclass(kind, Conv2d):
        kernel = pair(kind.__name__, "kernel_size", told["kernel_size"], 1)
        inputs = told["in_channels"] // told["groups"]
        shapes["weight"] = (told["out_channels"], inputs, *kernel)
    elif issubclass(kind, BatchNorm):
        features = (told["num_features"],)
        if told.get("affine", True):
            shapes["weight"] = features
        if told.get("track_running_stats", True):
            shapes |= {"running_mean": features, "running_var": features, "num_batches_tracked": ()}
    if "weight" in shapes and told["bias"]:
        shapes["bias"] = shapes["weight"][:1]
    return shapes
