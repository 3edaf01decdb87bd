"""Sequential and ModuleList: modules in order."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike

from npbn.layers.module import Module

ContainerT = TypeVar("ContainerT", bound="Container")


class Container(Module):
    """What Sequential and ModuleList share: submodules in order, by number and by name."""

    def append(self: ContainerT, layer: Module) -> ContainerT:
        """Add a module at the end, named by its position; return self.

        Raises
        ------
        TypeError
            If it is no Module.
        KeyError
            If the name is taken.
        """
        return self.extend([layer])

    def extend(self: ContainerT, layers: Iterable[Module]) -> ContainerT:
        """Add modules at the end, each named by its position; return self.

        Raises
        ------
        TypeError
            If one is no Module; nothing has been added then.
        KeyError
            If a name is taken; nothing has been added then.
        """
        self._add({str(i): layer for i, layer in enumerate(layers, start=len(self))})
        return self

    def _add(self, layers: Mapping[str, object]) -> None:
        for name, layer in layers.items():
            self._check(layer, f"layer {name!r}")
            if not isinstance(name, str) or not name or "." in name or hasattr(self, name):
                raise KeyError(
                    f"{type(self).__name__}: expected a name without a dot that is not taken, got "
                    f"{name!r}"
                )
        for name, layer in layers.items():
            setattr(self, name, layer)

    def _check(self, layer: object, what: str) -> None:
        if not isinstance(layer, Module):
            raise TypeError(f"{type(self).__name__}: expected a Module as {what}, got {layer!r}")

    def _layers(self) -> list[Module]:
        return [layer for layer in vars(self).values() if isinstance(layer, Module)]

    def __len__(self) -> int:
        return len(self._layers())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers())

    def __setitem__(self, index: int, layer: Module) -> None:
        """Replace a module; the new one takes over its name."""
        names = [name for name, _ in self._submodules()]
        self._check(layer, f"layer {index!r}")
        setattr(self, names[index], layer)

    if TYPE_CHECKING:  # submodules are attributes

        def __getattr__(self, name: str) -> Any: ...


class Sequential(Container):
    """Layers that run one after another; `backward` goes through them in reverse order.

    Parameters
    ----------
    *layers : Module
        They are named 0, 1, ...; or one mapping of names to layers.
    **named : Module
        Layers by name. Names are attributes, and prefixes of the ``state_dict`` keys.

    Raises
    ------
    TypeError
        On layers both by position and by name, or a layer that is no Module, or one that has a
        `forward` or `backward` of its own, which Sequential would not call.
    KeyError
        On a name that is empty, has a dot, or is an attribute already.

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
        mapping = layers[0] if len(layers) == 1 else None
        if isinstance(mapping, Mapping):
            layers, named = (), {**mapping, **named}
        if layers and named:
            raise TypeError("Sequential: expected layers by position or by name, got both")
        self._add(named or {str(i): layer for i, layer in enumerate(layers)})

    def _check(self, layer: object, what: str) -> None:
        super()._check(layer, what)
        for name in ("forward", "backward"):
            if getattr(type(layer), name) is not getattr(Module, name):
                kind = type(layer).__name__
                raise TypeError(
                    f"Sequential: {what} is a {kind}, which has a {name} of its own; Sequential "
                    f"calls _apply(x, predict) -> (y, cache) and _backward(grad_output, cache, "
                    f"input_grad): write {kind} with these, see help(npbn.Module)"
                )

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, Module):
            self._check(value, f"layer {name!r}")
        super().__setattr__(name, value)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...

    def __getitem__(self, index: int | slice) -> Any:
        """Return a layer, or for a slice a Sequential of the same layers under their names."""
        if isinstance(index, slice):
            return Sequential(dict(list(self._submodules())[index]))
        return self._layers()[index]

    def _check_input(self, x: ArrayLike) -> None:
        """Raise for an input that the network does not take; for subclasses."""

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, tuple[Any, ...]]:
        self._check_input(x)
        caches = []
        for layer in self._layers():
            x, cache = layer._apply(x, predict)
            caches.append(cache)
        return np.asarray(x), tuple(caches)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        layers = self._layers()
        # Without a gradient of the input, none is needed before the first layer with parameters.
        first = 0 if input_grad else _first_with_parameters(layers)
        grad: np.ndarray | None = grad_output
        for i in range(len(layers) - 1, first - 1, -1):
            if grad is not None:
                grad = layers[i]._backward(grad, cache[i], input_grad or i > first)
        return grad


def _first_with_parameters(layers: list[Module]) -> int:
    indices = (i for i, layer in enumerate(layers) if any(True for _ in layer.parameters()))
    return next(indices, len(layers))


class ModuleList(Container):
    """Modules in a list that registers them; torch's ``nn.ModuleList``.

    A plain list assigned to an attribute registers nothing: its modules would be missing from
    `parameters` and ``state_dict``. A ModuleList only holds them; the module that has it calls
    them (:class:`npbn.Module` shows how).

    Parameters
    ----------
    modules : iterable of Module
        They are named 0, 1, ...

    Raises
    ------
    TypeError
        On what is no Module.

    Examples
    --------
    >>> from npbn import Linear
    >>> blocks = ModuleList(Linear(2, 2) for _ in range(3))
    >>> len(blocks), list(blocks.state_dict())[:2]
    (3, ['0.weight', '0.bias'])
    """

    def __init__(self, modules: Iterable[Module] = ()):
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> "ModuleList": ...

    def __getitem__(self, index: int | slice) -> Any:
        """Return a module, or for a slice a ModuleList of the same modules, numbered from 0."""
        layers = self._layers()[index]
        return ModuleList(layers) if isinstance(layers, list) else layers

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        raise TypeError(
            "ModuleList: expected its modules to be called one by one, got a call of the list; "
            "Sequential runs modules one after another"
        )
