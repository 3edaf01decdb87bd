"""Networks rebuilt from the names and shapes in a state_dict, where these determine the layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.deploy.config import make_sequential
from npbn.deploy.layer_arguments import checked_arguments, make_layer, shapes_of
from npbn.errors import ConfigError
from npbn.io.arrays import as_array
from npbn.io.quoting import printable, quoted
from npbn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    Sequential,
)
from npbn.layers.state import check_shapes
from npbn.rng import generator

__all__ = ["from_state_dict"]

Arrays = dict[str, np.ndarray]


def from_state_dict(
    state: Mapping[str, ArrayLike], layers: Mapping[str, Any] | None = None
) -> Sequential:
    """Rebuild a Sequential from the names and shapes in a state_dict, and load the state.

    Arrays with a `running_mean` belong to a BatchNorm: a BatchNorm2d after a convolution or
    pooling, else a BatchNorm1d. Otherwise a 2-D weight belongs to a Linear, and a 4-D weight to a
    Conv2d. `layers` has to give what shapes do not determine: where layers without parameters are
    (ReLU, pooling, ...), and stride, padding, dilation and groups of each convolution.

    Some things leave no trace in a state_dict, so that their absence cannot be detected: layers
    after the last one with arrays, and BatchNorm's eps and momentum, which become torch's
    defaults, 1e-5 and 0.1. Give them in `layers` where they differ.

    Parameters
    ----------
    state : mapping of key to array_like
        For example from :func:`npbn.load`.
    layers : mapping of name to Module, dict or None, optional
        All layers by name, in order. A Module, for a layer without parameters, becomes part of
        the network. A dict gives arguments that the shapes do not determine; None stands for no
        such arguments. May be left out if the layers are numbered without a gap, as by torch's
        Sequential, and none is a convolution.

    Returns
    -------
    Sequential
        In training mode.

    Raises
    ------
    ConfigError
        If something is not determined; the message says what `layers` has to give.
    StateDictError
        If arrays of a layer are missing, superfluous, or of shapes that do not fit together.

    See Also
    --------
    npbn.from_config : Builds any network that can be described.

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
    groups = _by_layer(state)
    given = _numbered(groups) if layers is None else layers
    missing = [name for name in groups if name not in given]
    if missing:
        raise ConfigError(f"from_state_dict: layers does not contain {_first_few(missing)}")
    built: dict[str, Module] = {}
    for name, layer in given.items():
        if isinstance(layer, Module):
            built[name] = layer
        else:
            built[name] = _rebuild(name, groups.get(name, {}), layer, built)
    net = make_sequential(built, "from_state_dict")
    net.load_state_dict(state)
    return net


def _by_layer(state: Mapping[str, ArrayLike]) -> dict[str, Arrays]:
    """Return the arrays of each layer by their last names."""
    groups: dict[str, Arrays] = {}
    for key, value in state.items():
        name, _, last = str(key).rpartition(".")
        groups.setdefault(name, {})[last] = _array(key, value)
    if "" in groups or not groups:
        shown = f"[{', '.join(map(quoted, list(state)[:5]))}]" if groups else "none"
        raise ConfigError(f"from_state_dict: expected keys such as '0.weight', got {shown}")
    nested = [name for name in groups if "." in name]
    if nested:
        raise ConfigError(
            f"from_state_dict: {quoted(nested[0])} is a layer within a layer: build that network "
            "with from_config"
        )
    return groups


def _array(key: str, value: ArrayLike) -> np.ndarray:
    try:
        return as_array(value)
    except ValueError as error:
        raise ConfigError(f"from_state_dict: {printable(str(key))}: {error}") from error


def _first_few(names: Iterable[str]) -> str:
    """Return the first ten of these names, each cut if it is long."""
    first = list(islice(names, 11))
    return ", ".join([printable(name) for name in first[:10]] + ["..."] * (len(first) > 10))


def _numbered(groups: Mapping[str, Any]) -> dict[str, None]:
    """Return the names in order, if they are numbers without a gap."""
    if not all(name.isdecimal() and len(name) < 10 for name in groups):
        raise ConfigError(
            f"from_state_dict: the names {_first_few(groups)} do not show where layers without "
            "parameters are; pass layers={name: None or Module, ...} with all in order, "
            "such as layers={'fc1': None, 'relu': npbn.ReLU(), 'fc2': None}"
        )
    numbers = set(map(int, groups))
    # The file may name a layer 999999999: only the first gaps are looked for.
    gaps = list(islice((str(n) for n in range(max(numbers)) if n not in numbers), 11))
    if gaps:
        raise ConfigError(
            f"from_state_dict: layer {_first_few(gaps)} has no parameters; pass "
            f"layers={{..., {gaps[0]!r}: npbn.ReLU(), ...}} with all in order, None for the others"
        )
    return dict.fromkeys(map(str, sorted(numbers)))


def _rebuild(
    name: str, arrays: Arrays, given: Mapping[str, Any] | None, before: Mapping[str, Module]
) -> Module:
    """Return the layer that has these arrays."""
    where = f"from_state_dict: {printable(name)}"
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"{where}: expected a Module, a dict or None in layers, got {given!r}")
    if "running_mean" in arrays:
        kind, arguments = _batch_norm(arrays, before, where)
    elif "weight" in arrays and arrays["weight"].ndim == 2:
        kind, arguments = Linear, _linear(arrays)
    elif "weight" in arrays and arrays["weight"].ndim == 4:
        if given is None:
            raise ConfigError(
                f"{where}: the shape of a convolution does not determine stride, padding, "
                "dilation and groups; pass them, "
                f"layers={{..., {name!r}: {{'stride': 1, 'padding': 1}}, ...}}"
            )
        kind, arguments = Conv2d, _convolution(arrays, given)
    else:
        shapes = {key: array.shape for key, array in arrays.items()}
        raise ConfigError(
            f"{where}: expected the arrays of a Linear, BatchNorm or Conv2d, got {shapes or 'none'}"
            "; pass it as a Module"
        )
    dtype = arrays.get("weight", arrays.get("running_mean", np.empty(0))).dtype
    arguments = {**arguments, "dtype": str(dtype), **(given or {})}
    arguments = checked_arguments(kind, arguments, where)
    expected = shapes_of(kind, arguments, where, f"{name}.")
    found = {f"{name}.{key}": array for key, array in arrays.items()}
    check_shapes("from_state_dict", expected, found)
    return make_layer(kind, arguments, where, generator(None))


def _batch_norm(
    arrays: Arrays, before: Mapping[str, Module], where: str
) -> tuple[type[Module], dict[str, Any]]:
    return _batch_norm_after(before, where), {
        "num_features": arrays["running_mean"].size,
        "affine": "weight" in arrays,
        "bias": "bias" in arrays,
    }


def _batch_norm_after(before: Mapping[str, Module], where: str) -> type[Module]:
    """Return the BatchNorm for the output of the nearest layer before it that has a fixed rank."""
    for layer in reversed(list(before.values())):
        if isinstance(layer, Conv2d | MaxPool2d | AvgPool2d | AdaptiveAvgPool2d | BatchNorm2d):
            return BatchNorm2d
        if isinstance(layer, Linear | Flatten | BatchNorm1d):
            return BatchNorm1d
    raise ConfigError(
        f"{where}: no layer before this BatchNorm shows the rank of its input; pass it as a Module"
    )


def _linear(arrays: Arrays) -> dict[str, Any]:
    out_features, in_features = arrays["weight"].shape
    return {"in_features": in_features, "out_features": out_features, "bias": "bias" in arrays}


def _convolution(arrays: Arrays, given: Mapping[str, Any]) -> dict[str, Any]:
    out_channels, inputs, *kernel_size = arrays["weight"].shape
    groups = given.get("groups", 1)
    return {
        "in_channels": inputs * (groups if type(groups) is int else 1),  # Conv2d refuses others
        "out_channels": out_channels,
        "kernel_size": tuple(kernel_size),
        "bias": "bias" in arrays,
    }
