"""Networks rebuilt from a state_dict, as far as the names and shapes in it tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.arrays import as_array
from npbn.config import arrays_of, checked_options, layer_of, sequential_of
from npbn.errors import ConfigError
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
from npbn.quoting import printable, quoted
from npbn.rng import generator

__all__ = ["from_state_dict"]


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
        shown = f"[{', '.join(map(quoted, list(state)[:5]))}]" if groups else "none"
        raise ConfigError(f"from_state_dict: expected keys such as '0.weight', got {shown}")
    nested = [name for name in groups if "." in name]
    if nested:
        raise ConfigError(
            f"from_state_dict: {quoted(nested[0])} is a layer of a layer: build that network by "
            "from_config"
        )
    told = _numbered(groups) if layers is None else layers
    missing = [name for name in groups if name not in told]
    if missing:
        raise ConfigError(f"from_state_dict: layers says nothing of {_listed(missing)}")
    built: dict[str, Module] = {}
    for name, said in told.items():
        if isinstance(said, Module):
            built[name] = said
        else:
            built[name] = _shaped(name, groups.get(name, {}), said, built)
    net = sequential_of(built, "from_state_dict")
    net.load_state_dict(state)
    return net


def _array(key: str, value: ArrayLike) -> np.ndarray:
    try:
        return as_array(value)
    except ValueError as error:
        raise ConfigError(f"from_state_dict: {printable(str(key))}: {error}") from error


def _listed(names: Iterable[str]) -> str:
    """Return the first few of these names, however many and long they are."""
    first = list(islice(names, 11))
    return ", ".join([printable(name) for name in first[:10]] + ["..."] * (len(first) > 10))


def _numbered(groups: Mapping[str, Any]) -> dict[str, None]:
    """Return the names in order, if nothing can stand between them."""
    if not all(name.isdecimal() and len(name) < 10 for name in groups):
        raise ConfigError(
            f"from_state_dict: the names {_listed(groups)} do not tell where layers without "
            "parameters stand; pass layers={name: None or Module, ...} with all in order, "
            "such as layers={'fc1': None, 'relu': npbn.ReLU(), 'fc2': None}"
        )
    numbers = set(map(int, groups))
    # The file may name a layer 999999999: only the first gaps are looked for.
    gaps = list(islice((str(n) for n in range(max(numbers)) if n not in numbers), 11))
    if gaps:
        raise ConfigError(
            f"from_state_dict: layer {_listed(gaps)} has no parameters: what is it? Pass "
            f"layers={{..., {gaps[0]!r}: npbn.ReLU(), ...}} with all in order, None for the others"
        )
    return dict.fromkeys(map(str, sorted(numbers)))


def _shaped(
    name: str,
    arrays: Mapping[str, np.ndarray],
    said: Mapping[str, Any] | None,
    before: Mapping[str, Module],
) -> Module:
    """Return the layer that the shapes under a name belong to."""
    where = f"from_state_dict: {printable(name)}"
    if not isinstance(said, Mapping | None):
        raise ConfigError(f"{where}: expected a Module, a dict or None in layers, got {said!r}")
    options = dict(said or {})
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
    options = {**found, "dtype": str(some.dtype), **options}
    options = checked_options(kind, options, where)
    shapes = arrays_of(kind, options, where, f"{name}.")
    check_shapes(
        "from_state_dict", shapes, {f"{name}.{key}": array for key, array in arrays.items()}
    )
    return layer_of(kind, options, where, generator(None))


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
