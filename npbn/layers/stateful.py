"""What is done to a module and all below it: modes, gradients, state and dtypes."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.arguments import check_bool
from npbn.errors import StateDictError
from npbn.layers.lookup import Lookup, join
from npbn.layers.parameter import Parameter
from npbn.layers.state import IncompatibleKeys, load_state

StatefulT = TypeVar("StatefulT", bound="Stateful")


class Stateful(Lookup):
    """The part of :class:`npbn.Module` that changes its state, with torch's names."""

    training: bool = True
    frozen: bool = False
    _learnt: tuple[str, ...] = ()  # the parameters that `freeze` took requires_grad from

    # -- modes ------------------------------------------------------------------------------

    def train(self: StatefulT, mode: bool = True) -> StatefulT:
        """Set training mode, or eval mode for False, in this module and all below; return self.

        Frozen modules stay in eval mode.

        Raises
        ------
        ValueError
            If `mode` is not a bool.
        """
        check_bool("train", "mode", mode)
        for module in self.modules():
            module.training = bool(mode) and not module.frozen
        return self

    def eval(self: StatefulT) -> StatefulT:
        """Set eval mode in this module and all below; return self."""
        return self.train(False)

    def freeze(self: StatefulT, mode: bool = True) -> StatefulT:
        """Keep this module and all below as they are: in eval mode, parameters without gradients.

        ``train()`` leaves frozen modules in eval mode, `backward` accumulates no gradients for
        their parameters, and SGD does not change these. The gradient of the input is computed as
        before. It serves fine-tuning on batches too small for statistics: BatchNorm keeps its
        running statistics, scale and shift.

        Parameters
        ----------
        mode : bool
            False undoes it: parameters that lost ``requires_grad`` by `freeze` get it back, and
            the next ``train()`` sets training mode.

        Returns
        -------
        Module
            This one.

        Raises
        ------
        ValueError
            If `mode` is not a bool.

        Examples
        --------
        >>> from npbn import MLP
        >>> net = MLP()
        >>> _ = net.batch_norm1.freeze()
        >>> _ = net.train()
        >>> net.batch_norm1.training, net.batch_norm2.training
        (False, True)
        """
        check_bool("freeze", "mode", mode)
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
            module.frozen = bool(mode)
        return self.eval() if mode else self

    def requires_grad_(self: StatefulT, requires_grad: bool = True) -> StatefulT:
        """Set whether `backward` accumulates gradients for all parameters; return self.

        BatchNorm tracks its statistics all the same: see :meth:`freeze`.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradients of all parameters.

        Parameters
        ----------
        set_to_none : bool
            False replaces them with new arrays of zeros: an optimizer then still applies momentum
            and weight decay, as in torch.
        """
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    # -- state ------------------------------------------------------------------------------

    def _state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every array of the state under its key, shared ones under each of theirs."""
        for prefix, module in self.named_modules(remove_duplicate=False):
            for name, parameter in module._own(Parameter):
                yield join(prefix, name), parameter.data
            for name in module._buffers:
                if getattr(module, name) is not None:
                    yield join(prefix, name), getattr(module, name)

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
            Values are what ``np.asarray`` takes, torch tensors on the CPU too. Dtypes are cast.
            A key ``num_batches_tracked`` may be absent, as in plain mappings of weights.
        strict : bool
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            ``(missing_keys, unexpected_keys)``

        Raises
        ------
        StateDictError
            One error that names all missing and unexpected keys and all wrong shapes; nothing has
            been changed then.

        Examples
        --------
        >>> from npbn import Linear
        >>> Linear(3, 2).load_state_dict(Linear(3, 2).state_dict())
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        """
        if not isinstance(state, Mapping):
            raise StateDictError(
                f"{type(self).__name__}.load_state_dict: expected a mapping of names to arrays, "
                f"got {type(state).__name__} {state!r:.80}; npbn.load(path) reads one from a file"
            )
        loaded = load_state(type(self).__name__, dict(self._state()), state, strict)
        for parameter in self.parameters():
            parameter.changed()
        return loaded

    # -- dtypes -----------------------------------------------------------------------------

    def float(self: StatefulT) -> StatefulT:
        """Convert all float parameters and buffers to float32; return self."""
        return self._cast(np.float32)

    def double(self: StatefulT) -> StatefulT:
        """Convert all float parameters and buffers to float64; return self."""
        return self._cast(np.float64)

    def half(self: StatefulT) -> StatefulT:
        """Convert all float parameters and buffers to float16; return self."""
        return self._cast(np.float16)

    @np.errstate(all="ignore")
    def _cast(self: StatefulT, dtype: DTypeLike) -> StatefulT:
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

    # -- copies -----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a pickle has the state, but not the forward pass that awaits its backward.
        return {name: value for name, value in vars(self).items() if name != "_pending"}
