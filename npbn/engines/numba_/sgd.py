"""The update of SGD, compiled: each array is read and written once."""

import numpy as np

from npbn.engines import numpy_
from npbn.engines.numba_.compiling import compiled
from npbn.engines.numba_.flat import flat, over_elements


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
    """Update `values` and `buffer` in place; see the NumPy engine."""
    vectors = flat(values, grad) if buffer is None else flat(values, grad, buffer)
    if vectors is None:
        options = lr, momentum, dampening, weight_decay, nesterov, maximize
        numpy_.sgd(values, grad, buffer, *options)
        return
    sign = -1.0 if maximize else 1.0
    if buffer is None:
        over_elements(_step, (vectors[1], lr, weight_decay, sign), (vectors[0],))
    else:
        rates = lr, momentum, 1 - dampening, weight_decay, nesterov, sign
        over_elements(_momentum_step, (vectors[1], *rates), (vectors[0], vectors[2]))


@compiled
def _decayed(value, grad, weight_decay, sign):
    # Without decay `value` is not used: 0 times infinity would be NaN.
    return sign * grad + weight_decay * value if weight_decay != 0 else sign * grad


@compiled
def _step(grad, lr, weight_decay, sign, first, last, values):
    grad, values, number = grad[first:last], values[first:last], values.dtype.type
    lr, weight_decay, sign = number(lr), number(weight_decay), number(sign)
    for i in range(len(values)):
        values[i] -= lr * _decayed(values[i], grad[i], weight_decay, sign)


@compiled
def _momentum_step(
    grad, lr, momentum, weight, weight_decay, nesterov, sign, first, last, values, buffer
):
    grad, values, buffer = grad[first:last], values[first:last], buffer[first:last]
    number = values.dtype.type
    lr, momentum, weight = number(lr), number(momentum), number(weight)
    weight_decay, sign = number(weight_decay), number(sign)
    for i in range(len(values)):
        step = _decayed(values[i], grad[i], weight_decay, sign)
        buffer[i] = momentum * buffer[i] + weight * step
        values[i] -= lr * (step + momentum * buffer[i] if nesterov else buffer[i])
