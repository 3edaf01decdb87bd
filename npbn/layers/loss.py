"""Losses as objects: a call returns the loss, then `backward` its gradient."""

import math
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import BackwardError, ShapeError
from npbn.functional.checks import float_array, same_shape
from npbn.functional.loss import (
    check_cross_entropy,
    check_ignore_index,
    check_loss_options,
    cross_entropy_backward,
    cross_entropy_forward,
)
from npbn.functional.squared_error import check_mse, mse_backward, mse_forward

# What a call returns: a float, or with reduction='none' an array.
if TYPE_CHECKING:
    LossT = TypeVar("LossT", bound=float | np.ndarray, default=float)
else:  # Python has defaults of type variables from 3.13 on
    LossT = TypeVar("LossT")


class Loss(Generic[LossT]):
    """Base of the losses: keeps the cache from a call until its `backward`.

    Attributes
    ----------
    reduction : {'mean', 'sum', 'none'}
    loss : float, ndarray or None
        What the latest call returned.
    denominator : float
        What the latest mean was divided by, to combine the losses of several batches; 1 for a sum.
    """

    _pending: tuple[Any, tuple[int, ...]] | None = None
    loss: LossT | None = None
    denominator: float = 1.0

    def __init__(self, reduction: str = "mean"):
        check_loss_options(type(self).__name__, reduction)
        self.reduction = reduction

    def backward(self, grad_output: ArrayLike | None = None) -> np.ndarray:
        """Return the gradient of the latest loss with respect to its input.

        Parameters
        ----------
        grad_output : array_like, shape of the loss, optional
            With ``reduction='none'`` the gradient of each term, and not given otherwise. For a
            single term it is 1 by default, as in torch.

        Returns
        -------
        ndarray, shape and dtype of the input

        Raises
        ------
        BackwardError
            If no call is pending: none since the latest `backward`. Or if `grad_output` is missing
            with ``reduction='none'``, or given otherwise.
        ShapeError
            If `grad_output` has another shape than the loss.
        """
        who = f"{type(self).__name__}.backward"
        if self._pending is None:
            raise BackwardError(f"{who}: expected a loss to go back from, got none: call it first")
        cache, shape = self._pending
        if grad_output is None and self.reduction == "none" and math.prod(shape) == 1:
            grad_output = np.ones(shape)
        if (grad_output is None) == (self.reduction == "none"):
            raise BackwardError(
                f"{who}: expected grad_output with reduction='none' alone, got "
                f"{'none' if grad_output is None else 'one'} with {self.reduction!r}"
            )
        if grad_output is not None:
            grad_output = np.asarray(grad_output)
            same_shape(who, grad_output, shape, "grad_output")
        grad = self._backward(cache, grad_output)
        self._pending = None
        return grad

    def _keep(self, loss: Any, cache: Any) -> LossT:
        self._pending = (cache, getattr(loss, "shape", ()))
        self.loss = loss
        self.denominator = self._denominator(cache) if self.reduction == "mean" else 1.0
        return loss  # type: ignore[no-any-return]

    def _denominator(self, cache: Any) -> float:
        """Return what the mean was divided by."""
        raise NotImplementedError

    def _backward(self, cache: Any, grad_output: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def _unusual(self) -> dict[str, object]:
        """Return the arguments that are not the defaults."""
        return {} if self.reduction == "mean" else {"reduction": self.reduction}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._unusual().items())
        return f"{type(self).__name__}({arguments})"


class CrossEntropyLoss(Loss[LossT]):
    """Cross-entropy of softmax(logits) against class indices; torch's ``nn.CrossEntropyLoss``.

    The terms and the gradient are given by :func:`npbn.functional.cross_entropy_forward` and
    :func:`npbn.functional.cross_entropy_backward`.

    Parameters
    ----------
    weight : array_like, shape (C,), of a float dtype, optional
        Weight of each class.
    ignore_index : int
        Terms with this target are left out. If all are, the mean is NaN and the gradient 0.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides the sum of the terms by the sum of the weights of their targets.
    label_smoothing : float in [0, 1]
        Share of the target's weight that is spread over all classes.

    Attributes
    ----------
    weight, ignore_index, reduction, label_smoothing
        The arguments.
    loss : float, ndarray or None
        What the latest call returned.
    denominator : float
        What the latest mean was divided by; 1 for a sum.

    Raises
    ------
    ValueError
        On an unknown `reduction`, or arguments out of range or of the wrong kind.
    ShapeError, DtypeError
        On a `weight` that is not one-dimensional or not of a float dtype.

    Examples
    --------
    >>> import numpy as np
    >>> criterion = CrossEntropyLoss()
    >>> round(criterion(np.zeros((2, 4)), np.array([0, 3])), 4)       # log 4
    1.3863
    >>> criterion.backward()
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """

    @overload
    def __init__(
        self: "CrossEntropyLoss[float]",
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: Literal["mean", "sum"] = "mean",
        label_smoothing: float = 0.0,
    ): ...

    @overload
    def __init__(
        self: "CrossEntropyLoss[np.ndarray]",
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        *,
        reduction: Literal["none"],
        label_smoothing: float = 0.0,
    ): ...

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        who = type(self).__name__
        super().__init__(reduction)
        check_loss_options(who, reduction, label_smoothing)
        check_ignore_index(who, ignore_index)
        self.weight = None if weight is None else float_array(who, weight, "weight")
        if self.weight is not None and self.weight.ndim != 1:
            raise ShapeError(f"{who}: expected weight of shape (C,), got {self.weight.shape}")
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def __call__(self, logits: ArrayLike, target: ArrayLike) -> LossT:
        """Return the loss.

        Parameters
        ----------
        logits : array_like, shape (C,), (N, C) or (N, C, d1, ...)
        target : array_like of integers, shape (), (N,) or (N, d1, ...)

        Returns
        -------
        float, or with ``reduction='none'`` an ndarray of target's shape

        Raises
        ------
        ShapeError, DtypeError
            If they do not fit together, or one is not of a float or an integer dtype.
        DataError
            If a target is neither a class nor `ignore_index`.
        """
        checked = check_cross_entropy(
            "CrossEntropyLoss", logits, target, self.weight, self.ignore_index
        )
        return self._keep(
            *cross_entropy_forward(
                *checked, self.ignore_index, self.reduction, self.label_smoothing
            )
        )

    def _denominator(self, cache: Any) -> float:
        return float(cache.total_weight)

    def _unusual(self) -> dict[str, object]:
        unusual: dict[str, object] = {}
        if self.weight is not None:
            unusual["weight"] = self.weight
        if self.ignore_index != -100:
            unusual["ignore_index"] = self.ignore_index
        unusual |= super()._unusual()
        if self.label_smoothing:
            unusual["label_smoothing"] = self.label_smoothing
        return unusual

    def _backward(self, cache: Any, grad_output: np.ndarray | None) -> np.ndarray:
        return cross_entropy_backward(cache, grad_output)


class MSELoss(Loss[LossT]):
    """Squared error (x − target)²: its mean over all elements, its sum, or each of them.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}

    Attributes
    ----------
    reduction : str
    loss : float, ndarray or None
        What the latest call returned.
    denominator : float
        What the latest mean was divided by, the number of elements; 1 for a sum.

    Raises
    ------
    ValueError
        On an unknown `reduction`.

    Examples
    --------
    >>> import numpy as np
    >>> criterion = MSELoss()
    >>> criterion(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0
    >>> criterion.backward()
    array([ 0., -2.])
    """

    @overload
    def __init__(self: "MSELoss[float]", reduction: Literal["mean", "sum"] = "mean"): ...

    @overload
    def __init__(self: "MSELoss[np.ndarray]", reduction: Literal["none"]): ...

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction)

    def __call__(self, x: ArrayLike, target: ArrayLike) -> LossT:
        """Return the loss.

        Parameters
        ----------
        x, target : array_like, of one shape and float dtype

        Returns
        -------
        float, or with ``reduction='none'`` an ndarray of x's shape

        Raises
        ------
        ShapeError, DtypeError
            If they differ in shape or dtype (nothing is broadcast), or are not of a float dtype.
        """
        return self._keep(*mse_forward(*check_mse("MSELoss", x, target), self.reduction))

    def _denominator(self, cache: Any) -> float:
        return float(cache.difference.size)

    def _backward(self, cache: Any, grad_output: np.ndarray | None) -> np.ndarray:
        return mse_backward(cache, grad_output)
