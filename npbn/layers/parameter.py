"""Parameter: a learnable array and its gradient."""

from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.errors import DtypeError, ShapeError
from npbn.functional.checks import float_array

# Numbers, in one order, for the changes of all parameters and the forward passes of all networks:
# a parameter whose number is above that of a forward pass has changed since.
clock = count(1)


class RemovableHandle:
    """What registering a hook returns."""

    def __init__(self, hooks: dict):
        self._hooks = hooks

    def remove(self) -> None:
        """Have the hook called no more."""
        self._hooks.pop(self, None)


@np.errstate(all="ignore")
def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b


class Parameter:
    """A learnable array and its gradient.

    Parameters
    ----------
    data : array_like of a float dtype
        Kept by reference when it is an ndarray.
    requires_grad : bool
        Whether ``backward`` fills `grad`; False freezes the parameter.

    Attributes
    ----------
    data : ndarray
        Assigning an array of another shape raises ShapeError.
    grad : ndarray or None
        Gradients accumulate here until ``zero_grad``; each is a new array, so one that
        was kept is never overwritten.
    changed_at : int
        Grows with every change of `data` that npbn makes or sees: an assignment, a step, a load.

    Examples
    --------
    >>> p = Parameter([[1.0, 2.0]])
    >>> p.shape, p.dtype, p.grad
    ((1, 2), dtype('float64'), None)
    """

    def __init__(self, data: ArrayLike, requires_grad: bool = True):
        self._data = float_array("Parameter", data, "data")
        self._grad: np.ndarray | None = None
        self.requires_grad = requires_grad
        self._hooks: dict[object, Callable[[Parameter], None]] = {}
        self.changed_at = next(clock)

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._data

    @data.setter
    def data(self, value: ArrayLike) -> None:
        value = float_array("Parameter.data", value, "data")
        if value.shape != self.shape:
            raise ShapeError(f"Parameter.data: expected shape {self.shape}, got {value.shape}")
        self._data = value
        self.changed()

    def changed(self) -> None:
        """Note that the values are others: for whoever writes into `data`, which nobody sees.

        A `backward` that waits is refused then: its gradient would not be that of its forward pass.
        """
        self.changed_at = next(clock)

    @property
    def grad(self) -> np.ndarray | None:
        """The accumulated gradient, of the shape and dtype of `data`, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: np.ndarray | None) -> None:
        if value is not None:
            value = np.asarray(value)
            if value.shape != self.shape:
                raise ShapeError(f"Parameter.grad: expected shape {self.shape}, got {value.shape}")
            if value.dtype != self.dtype:
                raise DtypeError(f"Parameter.grad: expected dtype {self.dtype}, got {value.dtype}")
        self._grad = value

    def accumulate(self, grad: np.ndarray) -> None:
        """Add `grad` to the gradient, if the parameter requires one."""
        if self.requires_grad:
            if self._grad is not None and grad.shape == self.shape:
                grad = _sum(self._grad, grad)
            self.grad = grad  # which refuses another shape
            for hook in list(self._hooks.values()):
                hook(self)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient; or make it zeros, if there is one, in a new array."""
        self._grad = None if set_to_none or self._grad is None else np.zeros_like(self._grad)

    def requires_grad_(self, requires_grad: bool = True) -> "Parameter":
        """Set `requires_grad`; return self."""
        if not isinstance(requires_grad, bool):
            raise ValueError(f"requires_grad_: expected a bool, got {requires_grad!r}")
        self.requires_grad = requires_grad
        return self

    def register_post_accumulate_grad_hook(
        self, hook: "Callable[[Parameter], None]"
    ) -> "RemovableHandle":
        """Have `hook` called with the parameter whenever a gradient has been accumulated."""
        handle = RemovableHandle(self._hooks)
        self._hooks[handle] = hook
        return handle

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of `data`."""
        return self._data.dtype

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._data, dtype=dtype, copy=copy)

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self.changed()  # by the clock of this process

    def __repr__(self) -> str:
        return f"Parameter containing:\n{self._data!r}"
