"""Module: what every layer and network shares."""

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.errors import BackwardError, DtypeError, ShapeError
from npbn.layers.lookup import Lookup
from npbn.layers.parameter import Parameter, clock
from npbn.layers.state import IncompatibleKeys, load_state

ModuleT = TypeVar("ModuleT", bound="Module")


class Module(Lookup):
    """Base of all layers and networks.

    Parameters and submodules register by being assigned to an attribute, buffers (arrays
    that are state but not learnt) by :meth:`register_buffer`.

    A new layer defines two methods, and gets ``forward``, ``backward`` and ``predict``::

        def _apply(self, x, predict):
            '''Return (y, cache); predict=True means: as in eval mode, whatever the mode.'''

        def _backward(self, grad_output, cache, input_grad):
            '''Accumulate the parameters' gradients; return the input's (or None).'''

    Attributes
    ----------
    training : bool
        True in training mode; :meth:`train` and :meth:`eval` set it everywhere below.
    frozen : bool
        Whether :meth:`train` leaves it in eval mode; see :meth:`freeze`.
    """

    training: bool = True
    frozen: bool = False
    _learnt: tuple[str, ...] = ()  # the parameters that `freeze` took requires_grad from
    _buffers: tuple[str, ...] = ()
    _pending: tuple[tuple[int, ...], np.dtype, Any, int] | None = None  # the last: when it was

    # -- forward and backward ---------------------------------------------------------------

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Return ``forward(x)``."""
        return self.forward(x)

    def forward(self, x: ArrayLike) -> np.ndarray:
        """Return the output, in the present mode, and keep what `backward` needs.

        `x` is kept by reference and must not be changed before `backward`, nor may parameters:
        what is assigned to ``.data``, a step and a load are noticed there, what is written into
        an array (``x[0] = 1``, ``weight.data[0] = 1``) is not. The output is the caller's.
        """
        y, cache = self._apply(x, predict=False)
        object.__setattr__(self, "_pending", (y.shape, y.dtype, cache, next(clock)))
        return y

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Return the output in eval mode, whatever the mode is, keeping nothing.

        Safe to call from many threads at once.
        """
        return self._apply(x, predict=True)[0]

    def backward(self, grad_output: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        """Accumulate the gradients of the parameters; return that of the input.

        Parameters
        ----------
        grad_output : ndarray, shape and dtype of the output
            Gradient of the loss with respect to the output of the latest `forward`.
        input_grad : bool
            False returns None, and the first layer skips the product.

        Raises
        ------
        BackwardError
            If no `forward` is waiting: never run, or its backward already done. If parameters
            have changed since; `forward` is still waiting then.
        ShapeError, DtypeError
            If `grad_output` is not as the output was; `forward` is still waiting then.
        """
        if self._pending is None:
            raise BackwardError(
                f"{type(self).__name__}.backward: expected a forward pass to go back through, got "
                "none (not run yet, already consumed by a backward, or run with predict)"
            )
        shape, dtype, cache, then = self._pending
        if next(clock) != then + 1:
            self._check_unchanged(then)
        grad_output = np.asarray(grad_output)
        who = type(self).__name__
        if grad_output.shape != shape:
            raise ShapeError(
                f"{who}.backward: expected grad_output of the output's shape {shape}, got "
                f"{grad_output.shape}"
            )
        if grad_output.dtype != dtype:
            raise DtypeError(
                f"{who}.backward: expected grad_output of the output's dtype {dtype}, got "
                f"{grad_output.dtype}"
            )
        grad_input = self._backward(grad_output, cache, input_grad)
        object.__setattr__(self, "_pending", None)
        return grad_input if input_grad else None

    def _check_unchanged(self, then: int) -> None:
        """Raise BackwardError if a parameter has changed since `then`: something, somewhere has."""
        for name, parameter in self.named_parameters():
            if parameter.changed_at > then:
                raise BackwardError(
                    f"{type(self).__name__}.backward: expected the parameters of the forward pass, "
                    f"got others: {name} has changed since, by a step, a load or an assignment"
                )

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        raise TypeError(f"{type(self).__name__} defines no _apply(x, predict)")

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        raise TypeError(f"{type(self).__name__} defines no _backward(...)")

    # -- modes ------------------------------------------------------------------------------

    def train(self: ModuleT, mode: bool = True) -> ModuleT:
        """Set training mode (or eval mode, for False) here and below; return self."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: expected a bool, got {mode!r}")
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self: ModuleT) -> ModuleT:
        """Set eval mode here and below; return self."""
        return self.train(False)

    def freeze(self: ModuleT, mode: bool = True) -> ModuleT:
        """Put this module and all below it into eval mode, which `train` then leaves; return self.

        Their parameters lose their gradients and get no more, so that SGD passes them by. Thus is
        BatchNorm frozen while a detection network is fine-tuned on batches too small for
        statistics: running statistics, scale and shift stay as they are, and the gradient of the
        input flows.

        ``freeze(False)`` gives ``requires_grad`` back to the parameters that `freeze` took it
        from, not to those that were without before, and lets the next ``train()`` reach all below.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"freeze: expected a bool, got {mode!r}")
        for module in self.modules():
            for name, parameter in list(module._own(Parameter)):
                if mode:
                    if parameter.requires_grad:
                        module._learnt = (*module._learnt, name)
                    parameter.requires_grad, parameter.grad = False, None
                elif name in module._learnt:
                    parameter.requires_grad = True
            if not mode:
                module._learnt = ()
            module.frozen = mode
        return self.eval() if mode else self

    # -- traversal --------------------------------------------------------------------------

    def register_buffer(self, name: str, value: np.ndarray | None) -> None:
        """Make `value` an attribute that is part of the state, but not learnt."""
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
        if name in self._buffers:
            self._check_buffer(name, value)
        super().__setattr__(name, value)

    def _check_buffer(self, name: str, value: object) -> None:
        if value is not None and not isinstance(value, np.ndarray):
            raise TypeError(
                f"{type(self).__name__}.{name} is a buffer: expected an ndarray or None, "
                f"got {type(value).__name__}"
            )

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
        """Yield this module and all below it, by dotted name; a shared one once."""
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
        """Yield the parameters of this module and all below it, a shared one once."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._own(Parameter):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield _join(prefix, name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of this module and all below it, a shared one once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the buffers of this module and all below it, leaving out those that are None."""
        for prefix, module in self.named_modules():
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield _join(prefix, name), getattr(module, name)

    def _own(self, kind: type) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in vars(self).items() if isinstance(value, kind))

    def _submodules(self) -> Iterator[tuple[str, "Module"]]:
        return self._own(Module)

    def _walk(self, prefix: str) -> Iterator[tuple[str, "Module"]]:
        yield prefix, self
        for name, child in self._submodules():
            yield from child._walk(_join(prefix, name))

    # -- state ------------------------------------------------------------------------------

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every array of the state under its key, shared ones under each of theirs."""
        for prefix, module in self.named_modules(remove_duplicate=False):
            for name, parameter in module._own(Parameter):
                yield _join(prefix, name), parameter.data
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield _join(prefix, name), getattr(module, name)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return C-contiguous copies of parameters and buffers, with torch's keys."""
        return {key: np.array(array, order="C") for key, array in self._state()}

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into parameters and buffers, in place.

        Parameters
        ----------
        state : mapping of key to array_like
            Anything ``np.asarray`` takes, torch tensors on the CPU too. Dtypes are cast. A
            key ``num_batches_tracked`` may be absent, as in plain mappings of weights.
        strict : bool
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            ``(missing_keys, unexpected_keys)``

        Raises
        ------
        StateDictError
            One error that names every missing, unexpected and mis-shaped key; nothing has
            been changed then.
        """
        loaded = load_state(type(self).__name__, dict(self._state()), state, strict)
        for parameter in self.parameters():
            parameter.changed()
        return loaded

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; or set those there are to zeros, in new arrays.

        With zeros an optimizer goes on with momentum and decay, as in torch.
        """
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    def float(self: ModuleT) -> ModuleT:
        """Turn all float parameters and buffers into float32; return self."""
        return self._cast(np.float32)

    def double(self: ModuleT) -> ModuleT:
        """Turn all float parameters and buffers into float64; return self."""
        return self._cast(np.float64)

    def half(self: ModuleT) -> ModuleT:
        """Turn all float parameters and buffers into float16; return self."""
        return self._cast(np.float16)

    @np.errstate(all="ignore")
    def _cast(self: ModuleT, dtype: DTypeLike) -> ModuleT:
        for parameter in self.parameters():
            grad = parameter.grad
            parameter.grad = None
            parameter.data = parameter.data.astype(dtype)
            parameter.grad = None if grad is None else grad.astype(dtype)
        for module in self.modules():
            module._pending = None  # of the old dtype
            for name in module._buffers:
                buffer = getattr(module, name)
                if buffer is not None and buffer.dtype.kind == "f":
                    setattr(module, name, buffer.astype(dtype))
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a pickle has the state, not the forward pass that happens to be waiting.
        return {name: value for name, value in vars(self).items() if name != "_pending"}

    # -- as text ----------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the arguments to print between the parentheses."""
        return ""

    def __repr__(self) -> str:
        name, lines = type(self).__name__, self.extra_repr().splitlines()
        children = [f"({child}): {module!r}" for child, module in self._submodules()]
        if not children and len(lines) <= 1:
            return f"{name}({''.join(lines)})"
        body = "\n".join(lines + children).replace("\n", "\n  ")
        return f"{name}(\n  {body}\n)"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
