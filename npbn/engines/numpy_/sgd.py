"""The update of SGD, for one parameter of any shape and layout."""

import numpy as np


def sgd(
    values: np.ndarray,
    grad: np.ndarray,
    buffer: np.ndarray | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """Update `values` and `buffer` in place; see :class:`npbn.SGD` for the equations.

    Parameters
    ----------
    values, grad : ndarray, of one shape and dtype
    buffer : ndarray, shape and dtype of values, or None
        The momentum's; None without momentum.
    lr, momentum, dampening, weight_decay : float
        They are rounded to the dtype of `values`, as are all results in between.
    nesterov, maximize : bool
    """
    step = -grad if maximize else grad
    if weight_decay:
        step = step + weight_decay * values
    if buffer is not None:
        buffer *= momentum
        buffer += (1 - dampening) * step
        step = step + momentum * buffer if nesterov else buffer
    values -= lr * step
