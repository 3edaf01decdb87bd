"""Module: what every layer and network shares."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import BackwardError, DtypeError, ShapeError
from npbn.layers.parameter import clock
from npbn.layers.rollback import restoring
from npbn.layers.stateful import Stateful


class Module(Stateful):
    """Base class of all layers and networks.

    Parameters and submodules are registered when they are assigned to an attribute, buffers
    (arrays that are state but not learnt) by :meth:`register_buffer`. Submodules in a list or dict
    are not: use :class:`npbn.ModuleList`.

    **A layer of your own** defines two methods. `forward`, `backward` and `predict` are made from
    them and are not overridden:

    - ``_apply(x, predict)`` returns the output, and a cache with what `_backward` needs. It
      computes as in training if ``self.training and not predict``, else as in evaluation.
    - ``_backward(grad_output, cache, input_grad)`` adds the gradient of each parameter to it by
      ``Parameter.accumulate`` and returns the gradient of the input, which is not used if
      `input_grad` is False.

    **A composite** calls `_apply` and `_backward` of its submodules, and keeps their caches in its
    own; see the second example.

    A call that raises has changed no parameter, gradient, running statistic or counter, also
    where a layer refuses what those before it have accepted. Three things are not undone: numbers
    that a Dropout has drawn from its generator, buffers that an `_apply` of your own has changed
    before a later layer raised, and gradients that were accumulated before a `_backward` of your
    own raised.

    Attributes
    ----------
    training : bool
        True in training mode; :meth:`train` and :meth:`eval` set it for all submodules too.
    frozen : bool
        Whether :meth:`train` leaves it in eval mode; see :meth:`freeze`.

    Examples
    --------
    A layer that multiplies each feature by a learnt number:

    >>> import numpy as np
    >>> from npbn import Parameter
    >>> class Scale(Module):
    ...     def __init__(self, num_features):
    ...         self.weight = Parameter(np.full(num_features, 2.0))
    ...     def _apply(self, x, predict):
    ...         return x * self.weight.data, x
    ...     def _backward(self, grad_output, cache, input_grad):
    ...         self.weight.accumulate((grad_output * cache).sum(axis=0))
    ...         return grad_output * self.weight.data if input_grad else None
    >>> layer = Scale(2)
    >>> layer(np.array([[1.0, 3.0]]))
    array([[2., 6.]])
    >>> layer.backward(np.array([[10.0, 20.0]]))
    array([[20., 40.]])
    >>> layer.weight.grad
    array([10., 60.])

    A composite that adds its input to what a submodule returns:

    >>> class Residual(Module):
    ...     def __init__(self, inner):
    ...         self.inner = inner
    ...     def _apply(self, x, predict):
    ...         y, cache = self.inner._apply(x, predict)
    ...         return x + y, cache
    ...     def _backward(self, grad_output, cache, input_grad):
    ...         grad = self.inner._backward(grad_output, cache, input_grad)
    ...         return grad_output + grad if input_grad else None
    >>> net = Residual(Scale(2))
    >>> net(np.array([[1.0, 3.0]]))
    array([[3., 9.]])
    >>> net.backward(np.array([[10.0, 20.0]]))
    array([[30., 60.]])
    """

    # Of the latest forward pass: shape and dtype of the output, the cache, and its number.
    _pending: tuple[tuple[int, ...], np.dtype, Any, int] | None = None

    # -- forward and backward ---------------------------------------------------------------

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Return ``forward(x)``."""
        return self.forward(x)

    def forward(self, x: ArrayLike) -> np.ndarray:
        """Return the output in the present mode, and keep what `backward` needs.

        For one thread at a time; :meth:`predict` may be called from several.

        Parameters
        ----------
        x : array_like
            Kept by reference. Until `backward`, neither `x` nor parameters may be changed:
            `backward` notices an assignment to ``.data``, a step and a load, but not a change
            within an array (``x[0] = 1``, ``weight.data[0] = 1``).

        Returns
        -------
        ndarray
            It is the caller's: no later call writes into it.

        Raises
        ------
        ShapeError, DtypeError, BatchSizeError, ValueError
            On an input that the module does not take; nothing has been changed then.
        """
        if self._composite:
            y, cache = restoring(self._apply, x, False)
        else:
            y, cache = self._apply(x, False)
        self.__dict__["_pending"] = (y.shape, y.dtype, cache, next(clock))
        return y

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Return the output as in eval mode, in either mode, and keep nothing for `backward`.

        May be called from several threads at once.

        Parameters
        ----------
        x : array_like
            The input.

        Returns
        -------
        ndarray
            The output.

        Raises
        ------
        ShapeError, DtypeError, ValueError
            On an input that the module does not take.
        """
        return self._apply(x, True)[0]

    def backward(self, grad_output: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        """Accumulate the gradients of the parameters; return the gradient of the input.

        Parameters
        ----------
        grad_output : ndarray, shape and dtype of the output
            Gradient of the loss with respect to the output of the latest `forward`.
        input_grad : bool
            False returns None; the first layer then does not compute it.

        Returns
        -------
        ndarray, shape of the input, or None
            Gradient of the loss with respect to the input.

        Raises
        ------
        BackwardError
            If no forward pass is pending: none was run since the latest `backward`. Or if
            parameters have changed since.
        ShapeError, DtypeError
            If `grad_output` has another shape or dtype than the output. `backward` may be called
            again after this.
        """
        if self._pending is None:
            raise BackwardError(
                f"{type(self).__name__}.backward: expected a forward pass to go back through, got "
                "none (not run yet, already consumed by a backward, or run with predict)"
            )
        shape, dtype, cache, number = self._pending
        if next(clock) != number + 1:
            self._check_unchanged(number)
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
        self.__dict__["_pending"] = None
        return grad_input if input_grad else None

    def _check_unchanged(self, number: int) -> None:
        """Raise BackwardError if a parameter has changed since the forward pass of this number."""
        for name, parameter in self.named_parameters():
            if parameter.changed_at > number:
                raise BackwardError(
                    f"{type(self).__name__}.backward: expected the parameters of the forward pass, "
                    f"got others: {name} has changed since, by a step, a load or an assignment"
                )

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        raise TypeError(
            f"{type(self).__name__} defines no _apply(x, predict) -> (y, cache), which forward, "
            "predict and Sequential call; write that instead of forward, see help(npbn.Module)"
        )

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        raise TypeError(
            f"{type(self).__name__} defines no _backward(grad_output, cache, input_grad), which "
            "backward and Sequential call; write that instead of backward, see help(npbn.Module)"
        )

    # -- as text ----------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the arguments for the representation; for subclasses.

        Returns
        -------
        str
            The text between the parentheses.
        """
        return ""

    def __repr__(self) -> str:
        name, lines = type(self).__name__, self.extra_repr().splitlines()
        children = [f"({child}): {module!r}" for child, module in self._submodules()]
        if not children and len(lines) <= 1:
            return f"{name}({''.join(lines)})"
        body = "\n".join(lines + children).replace("\n", "\n  ")
        return f"{name}(\n  {body}\n)"
