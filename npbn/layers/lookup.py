"""What a module holds: parameters, buffers and submodules, by name."""

from collections.abc import Callable, Iterator
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from npbn.layers.parameter import Parameter

if TYPE_CHECKING:
    from npbn.layers.module import Module

T = TypeVar("T")
LookupT = TypeVar("LookupT", bound="Lookup")


class Lookup:
    """The part of :class:`npbn.Module` that registers and finds things, with torch's names."""

    _buffers: tuple[str, ...] = ()
    _composite: bool = False  # whether a submodule has been assigned

    # -- registering ------------------------------------------------------------------------

    def register_buffer(self, name: str, value: np.ndarray | None) -> None:
        """Make `value` an attribute that is part of the state, but is not learnt.

        Parameters
        ----------
        name : str
            A new attribute's; the key in the ``state_dict``.
        value : ndarray or None
            None is left out of the ``state_dict``.

        Raises
        ------
        KeyError
            If there is an attribute of that name, or it is no name: empty, or with a dot.
        TypeError
            If `value` is neither an ndarray nor None.

        Examples
        --------
        >>> import numpy as np
        >>> from npbn import Module
        >>> module = Module()
        >>> module.register_buffer("steps", np.zeros((), np.int64))
        >>> module.state_dict()
        {'steps': array(0)}
        """
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(
                f"{type(self).__name__}: expected a buffer's name without dots, got {name!r}"
            )
        if hasattr(self, name):
            raise KeyError(f"{type(self).__name__}: attribute {name!r} already exists")
        self._check_buffer(name, value)
        self._buffers = (*self._buffers, name)
        setattr(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        # As in torch: an array assigned over a parameter would silently stop its training.
        if isinstance(vars(self).get(name), Parameter) and not isinstance(
            value, Parameter | NoneType
        ):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Parameter, got {type(value).__name__}; "
                f"assign its values with .{name}.data[...] = values"
            )
        if isinstance(vars(self).get(name), Lookup) and not isinstance(value, Lookup | NoneType):
            raise TypeError(
                f"{type(self).__name__}.{name} is a Module: expected a Module or None, "
                f"got {type(value).__name__}"
            )
        if name in self._buffers:
            self._check_buffer(name, value)
        if isinstance(value, Lookup):
            vars(self)["_composite"] = True
        super().__setattr__(name, value)

    def _check_buffer(self, name: str, value: object) -> None:
        if value is not None and not isinstance(value, np.ndarray):
            raise TypeError(
                f"{type(self).__name__}.{name} is a buffer: expected an ndarray or None, "
                f"got {type(value).__name__}"
            )

    # -- going through all ------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield the direct submodules by attribute name, a shared one once."""
        seen: set[int] = set()
        for name, child in self._submodules():
            if id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator["Module"]:
        """Yield the direct submodules, a shared one once."""
        for _, child in self.named_children():
            yield child

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """Yield this module and all below it, by dotted name.

        Parameters
        ----------
        prefix : str
            Name of this module.
        remove_duplicate : bool
            True yields a shared module once, under its first name; False under each.
        """
        seen: set[int] = set()
        for name, module in self._walk(prefix):
            if not (remove_duplicate and id(module) in seen):
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator["Module"]:
        """Yield this module and all below it, a shared one once."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters of this module and all below it by dotted name, a shared one once.

        Examples
        --------
        >>> from npbn import Linear, Sequential
        >>> [name for name, _ in Sequential(fc=Linear(3, 2)).named_parameters()]
        ['fc.weight', 'fc.bias']
        """
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._own(Parameter):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield join(prefix, name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of this module and all below it, a shared one once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the buffers of this module and all below it by dotted name, without None."""
        for prefix, module in self.named_modules():
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield join(prefix, name), getattr(module, name)

    def buffers(self) -> Iterator[np.ndarray]:
        """Yield the buffers of this module and all below it, without None."""
        for _, buffer in self.named_buffers():
            yield buffer

    def _own(self, kind: type[T]) -> Iterator[tuple[str, T]]:
        return ((name, value) for name, value in vars(self).items() if isinstance(value, kind))

    def _submodules(self) -> Iterator[tuple[str, "Module"]]:
        modules: Any = self._own(Lookup)
        return modules  # type: ignore[no-any-return]

    def _walk(self, prefix: str) -> Iterator[tuple[str, "Module"]]:
        module: Any = self
        yield prefix, module
        for name, child in self._submodules():
            yield from child._walk(join(prefix, name))

    # -- finding one ------------------------------------------------------------------------

    def get_submodule(self, target: str) -> "Module":
        """Return the module of this dotted name; itself, for an empty one.

        Raises
        ------
        AttributeError
            If there is none.

        Examples
        --------
        >>> from npbn import Linear, Sequential
        >>> Sequential(block=Sequential(fc=Linear(3, 2))).get_submodule("block.fc")
        Linear(in_features=3, out_features=2, bias=True)
        """
        module: Any = self
        for name in target.split(".") if target else ():
            module = _found(module, name, dict(module._submodules()), "a module", target)
        return module  # type: ignore[no-any-return]

    def get_parameter(self, target: str) -> Parameter:
        """Return the Parameter of this dotted name.

        Raises
        ------
        AttributeError
            If there is none.
        """
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        return _found(owner, name, dict(owner._own(Parameter)), "a Parameter", target)

    def get_buffer(self, target: str) -> np.ndarray:
        """Return the buffer of this dotted name.

        Raises
        ------
        AttributeError
            If there is none.
        """
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        buffers = {name: getattr(owner, name) for name in owner._buffers}
        given = {name: buffer for name, buffer in buffers.items() if buffer is not None}
        return _found(owner, name, given, "a buffer", target)

    def apply(self: LookupT, fn: Callable[["Module"], object]) -> LookupT:
        """Call a function with every module below this one, then with itself; return self.

        Examples
        --------
        >>> from npbn import Linear, Sequential, init
        >>> def ones(module):
        ...     if isinstance(module, Linear):
        ...         init.uniform_(module.weight, 1, 1)
        >>> Sequential(Linear(2, 1)).apply(ones)[0].weight.data
        array([[1., 1.]], dtype=float32)
        """
        for child in self.children():
            child.apply(fn)
        module: Any = self
        fn(module)
        return self


def join(prefix: str, name: str) -> str:
    """Return the dotted name of what is called `name` in the module called `prefix`."""
    return f"{prefix}.{name}" if prefix else name


def _found(owner: Lookup, name: str, there: dict[str, T], what: str, target: str) -> T:
    if name not in there:
        raise AttributeError(
            f"{type(owner).__name__}: expected the name of {what}, of {sorted(there)}, got "
            f"{name!r}" + (f" in {target!r}" if name != target else "")
        )
    return there[name]
