"""Networks as plain data: to_config describes one, from_config builds it."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.deploy.layer_arguments import (
    TYPES,
    Shapes,
    arguments_of,
    checked_arguments,
    make_layer,
    shapes_of,
)
from npbn.errors import ConfigError
from npbn.io.quoting import printable, quoted
from npbn.layers import Module, Parameter, Sequential
from npbn.layers.plain import computes
from npbn.layers.state import check_shapes
from npbn.rng import generator

__all__ = ["from_config", "to_config"]

# -- describing -----------------------------------------------------------------------------


def to_config(net: Module) -> dict[str, Any]:
    """Describe a network as plain data: dicts, lists, strings, numbers, True, False and None.

    The description holds the layers and their arguments. It does not hold parameters, statistics,
    modes, what is frozen, or the state of generators. A subclass of Sequential such as
    :class:`npbn.MLP` is described as a Sequential of its layers.

    Only chains can be described, folded (:func:`npbn.fold_batch_norm`) and exported
    (:func:`npbn.export_onnx`): a module that does anything but run its layers one after another,
    such as a residual block that adds its input, is refused.

    Parameters
    ----------
    net : Module
        A layer of npbn, or a Sequential of them, nested or not.

    Returns
    -------
    dict
        ``json.dumps`` accepts it.

    Raises
    ------
    ConfigError
        On a layer that is not npbn's, a Sequential that runs its layers in another way, a layer or
        a Parameter that occurs twice, and arrays that no arguments give, such as a bias where the
        weight was set to None.

    See Also
    --------
    npbn.from_config : The inverse.
    npbn.from_state_dict : Builds some networks without a description.

    Examples
    --------
    >>> import json
    >>> from npbn import Linear, ReLU
    >>> to_config(Linear(2, 3))
    {'type': 'Linear', 'in_features': 2, 'out_features': 3, 'bias': True, 'dtype': 'float32'}

    A network that was trained in torch, ``torch.save(model.state_dict(), "model.pt")``, needs a
    description too, since a ``state_dict`` does not list its layers. Write them as a Sequential, in
    the order in which ``model.forward`` runs them and under the names of the model's attributes:

    >>> net = Sequential(fc1=Linear(784, 256), relu=ReLU(), fc2=Linear(256, 10))
    >>> text = json.dumps(to_config(net), indent=2)     # write it to config.json

    Then ``npbn fold model.pt folded.npz --config config.json`` works on the command line, and in
    Python, without torch:

    >>> state = net.state_dict()                        # or npbn.load("model.pt")
    >>> from_config(json.loads(text), state=state)
    Sequential(
      (fc1): Linear(in_features=784, out_features=256, bias=True)
      (relu): ReLU()
      (fc2): Linear(in_features=256, out_features=10, bias=True)
    )
    """
    if not isinstance(net, Module):
        raise ConfigError(f"to_config: expected a Module, got {type(net).__name__}")
    _check_nothing_is_shared(net)
    try:
        config = _describe(net, "")
        expected = state_shapes(config)
    except RecursionError:
        raise ConfigError("to_config: the network is nested too deeply") from None
    found = {key: array.shape for key, array in net._state()}
    for key in dict.fromkeys([*expected, *found]):
        if found.get(key) != expected.get(key):
            raise ConfigError(
                f"to_config: {key!r} is {found.get(key, 'no array')}, but a layer made with these "
                f"arguments has {expected.get(key, 'no array')}"
            )
    return config


def _check_nothing_is_shared(net: Module) -> None:
    names: dict[int, str] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        own = ((f"{path}.{name}", parameter) for name, parameter in module._own(Parameter))
        for name, thing in ((path, module), *own):
            if names.setdefault(id(thing), name) != name:
                raise ConfigError(
                    f"to_config: {names[id(thing)]!r} and {name!r} are the same "
                    f"{type(thing).__name__}, and a description cannot express that"
                )


def _describe(module: Module, path: str) -> dict[str, Any]:
    if computes(module, Sequential):
        parts = {name: _describe(m, f"{path}{name}.") for name, m in module.named_children()}
        return {"type": "Sequential", "layers": parts}
    # A layer for several processes is described as the layer for one that it was made from.
    kind: type[Module] = getattr(module, "described_as", type(module))
    if TYPES.get(kind.__name__) is not kind or not computes(module, type(module)):
        raise ConfigError(
            f"to_config: expected layers of npbn, got {kind.__name__}"
            f"{f' as {path[:-1]!r}' if path else ''}"
        )
    return {"type": kind.__name__, **arguments_of(module, kind)}


# -- building -------------------------------------------------------------------------------


def from_config(
    config: Mapping[str, Any],
    *,
    state: Mapping[str, ArrayLike] | None = None,
    rng: np.random.Generator | None = None,
) -> Module:
    """Build the network that :func:`to_config` described, with newly drawn parameters.

    Parameters
    ----------
    config : mapping
        As from JSON: lists may stand for tuples.
    state : mapping of key to array_like, optional
        A ``state_dict`` to load into it. Its shapes are compared before anything is allocated, so
        a small file that describes a huge network is refused.
    rng : numpy.random.Generator, optional
        Source of the initial values, and the generator of every Dropout.

    Returns
    -------
    Module
        In training mode.

    Raises
    ------
    ConfigError
        If it describes no network; the message names the layer.
    StateDictError
        If the state does not fit the network.

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
            return _build(config, "", generator(rng))
        check_shapes("from_config", state_shapes(config), state)
        net = _build(config, "", generator(rng))
    except RecursionError:
        raise ConfigError("from_config: the network is nested too deeply") from None
    net.load_state_dict(state)
    return net


def state_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return keys and shapes of the ``state_dict`` of a described network, making no array."""
    return dict(_shapes(config, ""))


def _shapes(config: Any, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    where, kind, options = _parse(config, path)
    if kind is Sequential:
        for name, part in options.items():
            yield from _shapes(part, f"{path}{name}.")
    else:
        yield from shapes_of(kind, checked_arguments(kind, options, where), where, path).items()


def _build(config: Any, path: str, rng: np.random.Generator) -> Module:
    where, kind, options = _parse(config, path)
    if kind is Sequential:
        built = {name: _build(part, f"{path}{name}.", rng) for name, part in options.items()}
        return make_sequential(built, where)
    return make_layer(kind, checked_arguments(kind, options, where), where, rng)


def _parse(config: Any, path: str) -> tuple[str, type[Module], Mapping[str, Any]]:
    """Return how messages name a layer, its class, and its arguments or a Sequential's layers."""
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


def make_sequential(parts: Mapping[str, Module], where: str) -> Sequential:
    """Return a Sequential of these layers, or raise ConfigError."""
    try:
        return Sequential(parts)
    except (KeyError, TypeError) as error:  # a name that is not allowed
        raise ConfigError(f"{where}: {printable(str(error.args[0]))}") from error
