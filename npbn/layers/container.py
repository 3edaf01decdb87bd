"""Sequential: layers one after another."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.layers.module import Module


class Sequential(Module):
    """Runs its layers in order; `backward` runs them back.

    ``Sequential(Linear(3, 2), ReLU())`` names them 0, 1, ...; keywords or one mapping name
    them otherwise. The names are the prefixes of the ``state_dict`` keys.

    Examples
    --------
    >>> from npbn import Linear, ReLU
    >>> net = Sequential(fc=Linear(3, 2), relu=ReLU())
    >>> list(net.state_dict())
    ['fc.weight', 'fc.bias']
    >>> net[0], len(net[:1])
    (Linear(in_features=3, out_features=2, bias=True), 1)
    """

    def __init__(self, *layers: Module | Mapping[str, Module], **named: Module):
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            layers, named = (), {**layers[0], **named}
        if layers and named:
            raise TypeError("Sequential: expected layers by position or by name, got both")
        for name, layer in named.items() if named else enumerate(layers):
            self._add(str(name), layer)

    def append(self, layer: Module) -> "Sequential":
        """Add a layer at the end, named by its position; return self."""
        self._add(str(len(self)), layer)
        return self

    def _add(self, name: str, layer: Module) -> None:
        if not isinstance(layer, Module):
            raise TypeError(f"Sequential: expected a Module as layer {name!r}, got {layer!r}")
        if not name or "." in name or hasattr(self, name):
            raise KeyError(f"Sequential: {name!r} is taken, or has a dot, or is empty")
        setattr(self, name, layer)

    def _layers(self) -> list[Module]:
        return [layer for layer in vars(self).values() if isinstance(layer, Module)]

    def __len__(self) -> int:
        return len(self._layers())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers())

    def __getitem__(self, index: int | slice) -> Module:
        """Return a layer, or for a slice a Sequential of the same layers under their names."""
        if isinstance(index, slice):
            return Sequential(dict(list(self._submodules())[index]))
        return self._layers()[index]

    def _check_input(self, x: ArrayLike) -> None:
        """Refuse, in a subclass, what a layer would refuse after those before it tracked it."""

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, tuple]:
        self._check_input(x)
        caches = []
        for layer in self._layers():
            x, cache = layer._apply(x, predict)
            caches.append(cache)
        return np.asarray(x), tuple(caches)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        layers = self._layers()
        # Without a gradient of the input nobody needs one in front of the first parameter.
        first = 0 if input_grad else _first_with_parameters(layers)
        grad = grad_output
        for i in range(len(layers) - 1, first - 1, -1):
            grad = layers[i]._backward(grad, cache[i], input_grad or i > first)
        return grad


def _first_with_parameters(layers: list[Module]) -> int:
    indices = (i for i, layer in enumerate(layers) if any(True for _ in layer.parameters()))
    return next(indices, len(layers))
