"""Losses as objects: called for the loss, then asked for the gradient."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npbn.errors import BackwardError
from npbn.functional.checks import same_shape
from npbn.functional.loss import (
    check_cross_entropy,
    check_loss_options,
    check_mse,
    cross_entropy_backward,
    cross_entropy_forward,
    mse_backward,
    mse_forward,
)


class _Loss:
    """Keeps the cache between the call and ``backward``."""

    _pending: tuple[Any, tuple[int, ...]] | None = None
    # Of the latest call, for those who bring together the losses of several batches.
    loss: float | np.ndarray | None = None
    denominator: float = 1.0

    def __init__(self, reduction: str = "mean"):
        check_loss_options(type(self).__name__, reduction)
        self.reduction = reduction

    def backward(self, grad_output: ArrayLike | None = None) -> np.ndarray:
        """Return the gradient of the latest loss with respect to its input.

        Parameters
        ----------
        grad_output : ndarray, shape of the loss, optional
            With ``reduction='none'``, and only then: the gradient of each term. Of a single term
            it is 1 by default, as in torch.

        Raises
        ------
        BackwardError
            If no loss is waiting (not called yet, or its gradient already taken), or
            `grad_output` is missing or superfluous.
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

    def _keep(self, loss: float | np.ndarray, cache: Any) -> float | np.ndarray:
        self._pending = (cache, getattr(loss, "shape", ()))
        self.loss = loss
        self.denominator = self._denominator(cache) if self.reduction == "mean" else 1.0
        return loss

    def _denominator(self, cache: Any) -> float:
        """Return what the mean was divided by."""
        raise NotImplementedError

    def _backward(self, cache: Any, grad_output: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CrossEntropyLoss(_Loss):
    """Cross-entropy of softmax(logits) against class indices.

    Parameters
    ----------
    weight : ndarray, shape (C,), optional
        Weight of each class.
    ignore_index : int
        Targets of this value count for nothing. All of them ignored: NaN loss, zero gradient.
    reduction : {'mean', 'sum', 'none'}
        The mean is over the weights of the targets.
    label_smoothing : float in [0, 1]

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

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(reduction)
        check_loss_options(type(self).__name__, reduction, label_smoothing)
        self.weight = None if weight is None else np.asarray(weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def __call__(self, logits: ArrayLike, target: ArrayLike) -> float | np.ndarray:
        """Return the loss: a float, or with ``reduction='none'`` an array of target's shape.

        Parameters
        ----------
        logits : ndarray, shape (C,), (N, C) or (N, C, d1, ...)
        target : ndarray of integers, shape (), (N,) or (N, d1, ...)

        Raises
        ------
        ShapeError, DtypeError
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
        return cache.total_weight

    def _backward(self, cache: Any, grad_output: np.ndarray | None) -> np.ndarray:
        return cross_entropy_backward(cache, grad_output)


class MSELoss(_Loss):
    """Squared error (x − target)², its mean over all elements, its sum, or each.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}

    Examples
    --------
    >>> import numpy as np
    >>> criterion = MSELoss()
    >>> criterion(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0
    >>> criterion.backward()
    array([ 0., -2.])
    """

    def __call__(self, x: ArrayLike, target: ArrayLike) -> float | np.ndarray:
        """Return the loss of `x` against `target`, of the same shape and dtype."""
        return self._keep(*mse_forward(*check_mse("MSELoss", x, target), self.reduction))

    def _denominator(self, cache: Any) -> float:
        return float(cache.difference.size)

    def _backward(self, cache: Any, grad_output: np.ndarray | None) -> np.ndarray:
        return mse_backward(cache, grad_output)
