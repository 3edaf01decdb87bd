"""Networks as plain data: out, in, and guessed from a state_dict as far as its shapes tell."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn import layers
from npbn.errors import ConfigError, NpbnError
from npbn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    ModuleList,
    Parameter,
    Sequential,
)
from npbn.rng import generator

__all__ = ["from_config", "from_state_dict", "to_config"]

# What a description may name: every layer there is, but for bases, losses and containers.
TYPES = {
    kind.__name__: kind
    for kind in (getattr(layers, name) for name in layers.__all__)
    if issubclass(kind, Module) and kind not in (Module, ModuleList, Sequential)
}

# By annotation, the types of arguments that layers take on trust (and of all that are strings).
TRUSTED: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
}


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
        and on a layer or a Parameter that occurs twice.

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
    return _described(net, "")


def runs_in_order(module: Module) -> bool:
    """Tell whether a module is a Sequential that runs its layers one after another, no more.

    A subclass of Sequential may do anything, such as to add its input to its output. npbn's own
    do not: a :class:`npbn.CNN` only looks at its input before.
    """
    runs = type(module)._apply
    return isinstance(module, Sequential) and runs.__module__.partition(".")[0] == "npbn"


def _described(module: Module, path: str) -> dict[str, Any]:
    if runs_in_order(module):
        parts = {name: _described(m, f"{path}{name}.") for name, m in module.named_children()}
        return {"type": "Sequential", "layers": parts}
    # A layer that works for several processes is, without them, the one it was made from.
    kind = getattr(module, "described_as", type(module))
    if TYPES.get(kind.__name__) is not kind:
        raise ConfigError(
            f"to_config: expected layers of npbn's, got {kind.__name__}"
            f"{f' as {path[:-1]!r}' if path else ''}"
        )
    return {"type": kind.__name__, **{name: _value(module, name) for name in _options(kind)}}


def _options(kind: type[Module]) -> list[str]:
    """Return the names of a layer's arguments, but for its generator."""
    if kind is Identity:  # takes anything and means nothing by it
        return []
    return [name for name in _parameters(kind) if name != "rng"]


def _parameters(kind: type[Module]) -> dict[str, str]:
    """Return the names of a layer's arguments, and their annotations as text."""
    import inspect  # takes 8 ms to load, which `import npbn` need not

    return {
        name: p.annotation
        if isinstance(p.annotation, str)
        else inspect.formatannotation(p.annotation)
        for name, p in inspect.signature(kind).parameters.items()
    }


def _value(module: Module, name: str) -> Any:
    if name == "dtype":
        arrays = [*module.parameters(), *(buffer for _, buffer in module.named_buffers())]
        return str(arrays[0].dtype) if arrays else "float32"
    if name == "bias":
        return module.bias is not None
    return _plain(getattr(module, name))


def _plain(value: Any) -> Any:
    """Return what JSON has for tuples and for NumPy's numbers."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def from_config(config: Mapping[str, Any], *, rng: np.random.Generator | None = None) -> Module:
    """Build the network that :func:`to_config` described, its parameters drawn anew.

    Parameters
    ----------
    config : mapping
        As from JSON: lists stand for tuples too.
    rng : numpy.random.Generator, optional
        Source of the initial values, and what every Dropout draws from.

    Raises
    ------
    ConfigError
        If it describes no network; the message names the layer.

    Examples
    --------
    >>> net = from_config({"type": "Sequential", "layers": {"0": {"type": "ReLU"}}})
    >>> net
    Sequential(
      (0): ReLU()
    )
    """
    return _built(config, "", generator(rng))


def _built(config: Any, path: str, rng: np.random.Generator) -> Module:
    where = f"from_config{f': {path[:-1]}' if path else ''}"
    if not isinstance(config, Mapping) or not isinstance(config.get("type"), str):
        raise ConfigError(f"{where}: expected a mapping with a 'type', got {config!r:.200}")
    options = {name: value for name, value in config.items() if name != "type"}
    if config["type"] == "Sequential":
        parts = options.get("layers")
        if not isinstance(parts, Mapping) or len(options) > 1:
            raise ConfigError(f"{where}: expected 'layers' by name and nothing else")
        built = {name: _built(m, f"{path}{name}.", rng) for name, m in parts.items()}
        return _sequential(built, where)
    kind = TYPES.get(config["type"])
    if kind is None:
        raise ConfigError(
            f"{where}: expected one of Sequential, {', '.join(TYPES)}, got {config['type']!r}"
        )
    return _layer(kind, options, where, rng)


def _sequential(parts: Mapping[str, Module], where: str) -> Sequential:
    try:
        return Sequential(parts)
    except KeyError as error:  # a name that cannot be
        raise ConfigError(f"{where}: {error.args[0]}") from error


def _layer(
    kind: type[Module], options: Mapping[str, Any], where: str, rng: np.random.Generator
) -> Module:
    annotations, known = _parameters(kind), _options(kind)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(f"{where}: {kind.__name__} takes no {', '.join(map(repr, unknown))}")
    options = {name: _plain(value) for name, value in options.items()}
    for name, value in options.items():
        annotation = "str" if name == "dtype" else annotations[name]
        if type(value) not in TRUSTED.get(annotation, (type(value),)):
            raise ConfigError(
                f"{where}: {kind.__name__} takes {name} as {annotation}, got {value!r:.200}"
            )
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    if "rng" in annotations:
        options["rng"] = rng
    try:
        return kind(**options)
    except (NpbnError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from error


# -- from shapes ----------------------------------------------------------------------------------


def from_state_dict(
    state: Mapping[str, ArrayLike], layers: Mapping[str, Any] | None = None
) -> Sequential:
    """Rebuild a Sequential from the names and shapes in a state_dict, and load that.

    A two-dimensional weight is a Linear's, a four-dimensional one a Conv2d's, and one beside a
    `running_mean` a BatchNorm's, of images after a convolution or pooling. What shapes do not
    tell has to be said in `layers`: where layers without parameters stand (ReLU, pooling, ...),
    and stride, padding, dilation and groups of a convolution.

    What a state_dict shows no trace of cannot be asked for, and is taken to be as usual: nothing
    follows the last layer that has arrays, and BatchNorm has torch's eps, 1e-5, and momentum, 0.1.
    Say it in `layers` where that is not so.

    Parameters
    ----------
    state : mapping of key to array_like
    layers : mapping of name to Module, dict or None, optional
        Every layer by name, in order: a Module, which becomes part of the network, for those that
        have no parameters; else a dict of arguments that the shapes do not tell, or None for no
        such. Needed unless the layers are numbered, as torch's Sequential does, without a gap, and
        none is a convolution.

    Raises
    ------
    ConfigError
        Says what it needs to be told.
    StateDictError
        If arrays of a layer are missing, superfluous or of another shape than its others say.

    Examples
    --------
    >>> from npbn import ReLU
    >>> state = Sequential(fc1=Linear(4, 3), relu=ReLU(), fc2=Linear(3, 2)).state_dict()
    >>> from_state_dict(state, {"fc1": None, "relu": ReLU(), "fc2": None})
    Sequential(
      (fc1): Linear(in_features=4, out_features=3, bias=True)
      (relu): ReLU()
      (fc2): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state.items():
        name, _, last = str(key).rpartition(".")
        groups.setdefault(name, {})[last] = _array(key, value)
    if "" in groups or not groups:
        raise ConfigError(
            "from_state_dict: expected keys such as '0.weight', got "
            f"{sorted(map(str, state))[:5] or 'none'}"
        )
    nested = [name for name in groups if "." in name]
    if nested:
        raise ConfigError(
            f"from_state_dict: {nested[0]!r} is a layer of a layer: build that network by "
            "from_config"
        )
    told = _numbered(groups) if layers is None else layers
    missing = [name for name in groups if name not in told]
    if missing:
        raise ConfigError(f"from_state_dict: layers says nothing of {', '.join(missing)}")
    built: dict[str, Module] = {}
    for name, said in told.items():
        built[name] = said if isinstance(said, Module) else _shaped(name, groups, said, built)
    net = _sequential(built, "from_state_dict")
    net.load_state_dict(state)
    return net


def _array(key: str, value: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's bfloat16, ragged lists
        raise ConfigError(f"from_state_dict: {key}: expected an array ({error})") from error


def _numbered(groups: Mapping[str, Any]) -> dict[str, None]:
    """Return the names in order, if nothing can stand between them."""
    if not all(name.isdecimal() for name in groups):
        raise ConfigError(
            f"from_state_dict: the names {', '.join(groups)} do not tell where layers without "
            "parameters stand; pass layers={name: None or Module, ...} with all in order, "
            "such as layers={'fc1': None, 'relu': npbn.ReLU(), 'fc2': None}"
        )
    numbers = sorted(map(int, groups))
    gaps = [str(number) for number in range(numbers[-1]) if number not in numbers]
    if gaps:
        raise ConfigError(
            f"from_state_dict: layer {', '.join(gaps)} has no parameters: what is it? Pass "
            f"layers={{..., {gaps[0]!r}: npbn.ReLU(), ...}} with all in order, None for the others"
        )
    return dict.fromkeys(map(str, numbers))


def _shaped(
    name: str,
    groups: Mapping[str, Mapping[str, np.ndarray]],
    said: Mapping[str, Any] | None,
    before: Mapping[str, Module],
) -> Module:
    """Return the layer that the shapes under a name belong to."""
    where = f"from_state_dict: {name}"
    if not isinstance(said, Mapping | None):
        raise ConfigError(f"{where}: expected a Module, a dict or None in layers, got {said!r}")
    arrays, options = groups.get(name, {}), dict(said or {})
    weight, bias = arrays.get("weight"), "bias" in arrays
    rank = 0 if weight is None else weight.ndim
    kind: type[Module]
    if "running_mean" in arrays:
        kind = _kind_of_batch_norm(before, where)
        found = {
            "num_features": arrays["running_mean"].size,
            "affine": weight is not None,
            "bias": bias,
        }
    elif rank == 2:
        kind = Linear
        found = {"in_features": weight.shape[1], "out_features": len(weight), "bias": bias}
    elif rank == 4:
        kind = Conv2d
        if said is None:
            raise ConfigError(
                f"{where}: the shape of a convolution does not tell stride, padding, dilation and "
                f"groups; pass them, layers={{..., {name!r}: {{'stride': 1, 'padding': 1}}, ...}}"
            )
        groups_said = options.get("groups", 1)
        found = {
            # Of wrong groups Conv2d will tell.
            "in_channels": weight.shape[1] * (groups_said if type(groups_said) is int else 1),
            "out_channels": len(weight),
            "kernel_size": weight.shape[2:],
            "bias": bias,
        }
    else:
        shapes = {key: array.shape for key, array in arrays.items()}
        raise ConfigError(
            f"{where}: expected the arrays of a Linear, BatchNorm or Conv2d, got {shapes or 'none'}"
            "; pass it as a Module"
        )
    some = arrays["running_mean"] if weight is None else weight
    return _layer(kind, {**found, "dtype": str(some.dtype), **options}, where, generator(None))


def _kind_of_batch_norm(before: Mapping[str, Module], where: str) -> type[Module]:
    """Return the BatchNorm for what the nearest layer before it that tells a rank gives."""
    for layer in reversed(before.values()):
        if isinstance(layer, Conv2d | MaxPool2d | AvgPool2d | AdaptiveAvgPool2d | BatchNorm2d):
            return BatchNorm2d
        if isinstance(layer, Linear | Flatten | BatchNorm1d):
            return BatchNorm1d
    raise ConfigError(
        f"{where}: no layer before this BatchNorm tells the rank of its input; pass it as a Module"
    )
