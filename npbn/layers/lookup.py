"""What a module holds, by name, and what is done to all that it holds."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from npbn.layers.parameter import Parameter

if TYPE_CHECKING:
    from npbn.layers.module import Module

SelfT = TypeVar("SelfT", bound="Lookup")


class Lookup:
    """The part of :class:`npbn.Module` that finds things, with torch's names."""

    def buffers(self) -> Iterator[np.ndarray]:
        """Yield the buffers of this module and all below it, leaving out those that are None."""
        for _, buffer in self.named_buffers():
            yield buffer

    def get_submodule(self, target: str) -> "Module":
        """Return the module of this dotted name; itself, for an empty one.

        Raises
        ------
        AttributeError
            If there is none; also in the next two.
        """
        module = self
        for name in target.split(".") if target else ():
            module = _found(module, name, dict(module._submodules()), "a module", target)
        return module

    def get_parameter(self, target: str) -> Parameter:
        """Return the Parameter of this dotted name."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        return _found(owner, name, dict(owner._own(Parameter)), "a Parameter", target)

    def get_buffer(self, target: str) -> np.ndarray:
        """Return the buffer of this dotted name."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        buffers = {name: getattr(owner, name) for name in owner._buffers}
        return _found(
            owner, name, {n: b for n, b in buffers.items() if b is not None}, "a buffer", target
        )

    def apply(self: SelfT, fn: Callable[["Module"], object]) -> SelfT:
        """Call a function with every module below this one, then with itself; return self.

        >>> from npbn import Linear, Sequential, init
        >>> def ones(module):
        ...     if isinstance(module, Linear):
        ...         init.uniform_(module.weight, 1, 1)
        >>> Sequential(Linear(2, 1)).apply(ones)[0].weight.data
        array([[1., 1.]], dtype=float32)
        """
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def requires_grad_(self: SelfT, requires_grad: bool = True) -> SelfT:
        """Have `backward` fill the gradients of all parameters, or of none; return self.

        BatchNorm goes on tracking its statistics then: see :meth:`npbn.Module.freeze`.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self


def _found(owner: Lookup, name: str, there: dict[str, Any], what: str, target: str) -> Any:
    if name not in there:
        raise AttributeError(
            f"{type(owner).__name__}: expected the name of {what}, of {sorted(there)}, got "
            f"{name!r}" + (f" in {target!r}" if name != target else "")
        )
    return there[name]
