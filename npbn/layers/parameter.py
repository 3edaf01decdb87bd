"""Parameter: a learnable array and its gradient."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.arguments import check_bool
from npbn.errors import DtypeError, ShapeError
from npbn.functional.checks import float_array

# Numbers the changes of all parameters and the forward passes of all networks in one order: a
# parameter has changed since a forward pass if its number is the larger one.
clock = count(1)


class RemovableHandle:
    """What registering a hook returns."""

    def __init__(self, hooks: "dict[RemovableHandle, Callable[[Parameter], None]]"):
        self._hooks = hooks

    def remove(self) -> None:
        """Remove the hook: it is not called any more."""
        self._hooks.pop(self, None)


def check_writeable(who: str, *parameters: "Parameter | None") -> None:
    """Raise ValueError if one of these parameters is read-only."""
    for parameter in parameters:
        if parameter is not None and not parameter.data.flags.writeable:
            raise ValueError(
                f"{who}: expected parameters that can be written to, got a read-only one of shape "
                f"{parameter.shape}"
            )


@np.errstate(all="ignore")
def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total: np.ndarray = a + b
    return total


class Parameter:
    """A learnable array and its gradient.

    Parameters
    ----------
    data : array_like of a float dtype
        Kept by reference if it is an ndarray.
    requires_grad : bool
        Whether ``backward`` accumulates the gradient; False freezes the parameter.

    Attributes
    ----------
    data : ndarray
        The values. Another array of the same shape may be assigned.
    grad : ndarray or None
        The accumulated gradient. Each sum is a new array: one that was kept is never overwritten.
    requires_grad : bool
    changed_at : int
        Grows with each change of `data` by an assignment, a step of an optimizer or a load.

    Raises
    ------
    DtypeError
        If `data` is not of a float dtype.
    ShapeError
        If an array of another shape is assigned to `data` or `grad`.
    ValueError
        If `requires_grad` is not a bool.

    Examples
    --------
    >>> p = Parameter([[1.0, 2.0]])
    >>> p.shape, p.dtype, p.numel(), p.grad
    ((1, 2), dtype('float64'), 2, None)
    >>> p.accumulate(np.array([[10.0, 20.0]]))
    >>> p.accumulate(np.array([[1.0, 1.0]]))
    >>> p.grad
    array([[11., 21.]])
    """

    def __init__(self, data: ArrayLike, requires_grad: bool = True):
        check_bool("Parameter", "requires_grad", requires_grad)
        self._data = float_array("Parameter", data, "data")
        self._grad: np.ndarray | None = None
        self.requires_grad = requires_grad
        self._hooks: dict[RemovableHandle, Callable[[Parameter], None]] = {}
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
        """Note a change of the values; to be called after writing into the array `data`.

        A forward pass before it has then no gradient: its `backward` raises BackwardError.
        """
        self.changed_at = next(clock)

    @property
    def grad(self) -> np.ndarray | None:
        """The accumulated gradient, of the shape and dtype of `data`, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: np.ndarray | None) -> None:
        if value is not None:
            value, data = np.asarray(value), self._data
            if value.shape != data.shape:
                raise ShapeError(f"Parameter.grad: expected shape {data.shape}, got {value.shape}")
            if value.dtype != data.dtype:
                raise DtypeError(f"Parameter.grad: expected dtype {data.dtype}, got {value.dtype}")
        self._grad = value

    def accumulate(self, grad: np.ndarray) -> None:
        """Add a gradient to `grad`, if the parameter requires one.

        A layer's ``_backward`` calls it once for each of its parameters.

        Parameters
        ----------
        grad : ndarray, shape and dtype of `data`
            Kept by reference if it is the first since ``zero_grad``.

        Raises
        ------
        ShapeError, DtypeError
            If it has another shape or dtype; `grad` has not been changed then.
        """
        if self.requires_grad:
            if self._grad is not None and grad.shape == self._data.shape:
                grad = _sum(self._grad, grad)
            self.grad = grad  # refuses another shape
            for hook in list(self._hooks.values()):
                hook(self)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradient.

        Parameters
        ----------
        set_to_none : bool
            False replaces it, if there is one, with a new array of zeros.
        """
        self._grad = None if set_to_none or self._grad is None else np.zeros_like(self._grad)

    def requires_grad_(self, requires_grad: bool = True) -> "Parameter":
        """Set `requires_grad`; return self.

        Parameters
        ----------
        requires_grad : bool
            Whether ``backward`` accumulates the gradient.

        Returns
        -------
        Parameter
            This one.

        Raises
        ------
        ValueError
            If it is not a bool.
        """
        check_bool("requires_grad_", "requires_grad", requires_grad)
        self.requires_grad = bool(requires_grad)
        return self

    def register_post_accumulate_grad_hook(
        self, hook: "Callable[[Parameter], None]"
    ) -> RemovableHandle:
        """Register a function that is called with the parameter after each accumulation.

        Parameters
        ----------
        hook : callable
            It takes the parameter.

        Returns
        -------
        RemovableHandle
            Its ``remove()`` undoes it.
        """
        handle = RemovableHandle(self._hooks)
        self._hooks[handle] = hook
        return handle

    def numel(self) -> int:
        """Return the number of elements.

        Returns
        -------
        int
            The product of the shape.
        """
        return self._data.size

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of `data`."""
        return self._data.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._data, dtype=dtype, copy=copy)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.changed()  # in the numbering of this process

    def __repr__(self) -> str:
        return f"Parameter containing:\n{self._data!r}"
