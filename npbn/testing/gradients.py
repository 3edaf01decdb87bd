"""Check the gradients of a layer of your own against finite differences; it needs NumPy alone."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

STEP = 1e-4  # of the spread of the values; see `check_gradients`
EPS = float(np.finfo(np.float64).eps)


class GradientError(AssertionError):
    """A gradient is not the derivative; the message says which, where, and what it should be."""


def check_gradients(layer: Any, x: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    r"""Check a layer's backward pass against finite differences of its forward pass.

    With an upstream gradient :math:`g` that is drawn (all ones would hide mistakes: the input
    gradient of BatchNorm vanishes then), the loss is :math:`f = \sum g \cdot y`. Each element
    of the gradients of the input and of the parameters is held against

    .. math:: D = \frac{4 D_h - D_{2h}}{3}, \quad D_h = \frac{f(v + h) - f(v - h)}{2 h}

    whose error is of order :math:`h^4`. What is allowed is :math:`|D_h - D_{2h}|`, which is of
    order :math:`h^2`, and what rounding loses of f, divided by h: 64 eps · Σ |g y| for a few
    dozen roundings of the output, and 64 times the change of f when x and the parameters change
    by one eps, for what is rounded on the way and made larger by a cancellation. h is 1e-4 of the
    spread of the values; where these and f are about 1, that allows about 1e-8 and 1e-10.

    Near a kink (ReLU at 0) little is checked: also allowed is :math:`|B_{2h} - 2 B_h|`, with
    :math:`B_h = (f(v + h) - 2 f(v) + f(v - h)) / h`, which is of order :math:`h^3` without a kink.
    If the slope changes by s at v + uh, D is wrong by :math:`|6 - 7u| s / 12` for u up to 1, and
    :math:`u s / 4 + |1 - 3u / 2| s` is allowed.

    Parameters
    ----------
    layer : Module
        With ``forward(x)``, ``backward(grad_output)`` and ``named_parameters()``, in the mode in
        which it is to be checked. Its parameters are float64 (``layer.double()``). It is copied,
        with its random generator, before every call, and stays as it is.
    x : ndarray, float64
        The input; small, since each element and each parameter takes four forward passes.
    seed : int
        Of the upstream gradient.

    Returns
    -------
    dict of str to float
        The largest difference of "input" and of each parameter by its name.

    Raises
    ------
    GradientError
        If a gradient is wrong, missing, or of another shape; an AssertionError.
    TypeError
        If `x` or a parameter is not float64.

    Examples
    --------
    >>> import numpy as np
    >>> import npbn
    >>> from npbn.testing import check_gradients
    >>> layer = npbn.BatchNorm1d(3).double()
    >>> x = np.random.default_rng(0).normal(size=(5, 3))
    >>> max(check_gradients(layer, x).values()) < 1e-8
    True
    """
    x = np.asarray(x)
    _check_dtypes(layer, x)
    mine = copy.deepcopy(layer)
    y = mine.forward(x.copy())
    # A stream of its own: x itself is often drawn with the same seed, and g = x hides mistakes too.
    grad_output = np.random.default_rng((2015, seed)).normal(size=y.shape)
    for _, parameter in mine.named_parameters():
        parameter.grad = None
    gradients = {"input": mine.backward(grad_output.copy())}
    gradients |= {name: p.grad for name, p in mine.named_parameters() if p.requires_grad}

    lost = 64 * (EPS * float(np.abs(grad_output * y).sum()) + _change(layer, x, grad_output, y))
    differences = {}
    for name, gradient in gradients.items():
        value = x if name == "input" else dict(layer.named_parameters())[name].data
        _check_form(name, gradient, value)

        def loss(changed: np.ndarray, name: str = name) -> float:
            return float((grad_output * _output(layer, x, name, changed)).sum())

        differences[name] = _largest_difference(name, gradient, value, loss, lost)
    return differences


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, step: float) -> np.ndarray:
    """Return the central differences of the scalar function `f` at `x`, element by element.

    Parameters
    ----------
    f : callable
        Takes an ndarray, returns a float.
    x : ndarray
    step : float

    Returns
    -------
    ndarray, shape of x, float64
        An element for each of x.
    """
    return _differences(f, x, step)[0]


def _differences(
    f: Callable[[np.ndarray], float], x: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the central differences of `f` at `x`, and how much the slope changes there."""
    slopes, bends, here = np.empty(x.shape), np.empty(x.shape), f(x)
    for index in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[index] += step
        behind[index] -= step
        above, below, width = f(ahead), f(behind), ahead[index] - behind[index]
        slopes[index] = (above - below) / width
        bends[index] = ((above - here) - (here - below)) / (width / 2)
    return slopes, bends


def _output(layer: Any, x: np.ndarray, name: str, changed: np.ndarray) -> np.ndarray:
    """Return the output of a copy of the layer with another input or parameter."""
    fresh = copy.deepcopy(layer)
    if name != "input":
        dict(fresh.named_parameters())[name].data[...] = changed
    y: np.ndarray = fresh.forward(changed if name == "input" else x.copy())
    return y


def _change(layer: Any, x: np.ndarray, grad_output: np.ndarray, y: np.ndarray) -> float:
    """Return how much the loss changes when x and the parameters change by an eps or so."""
    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(4):
        fresh = copy.deepcopy(layer)
        for _, parameter in fresh.named_parameters():
            parameter.data[...] *= 1 + EPS * rng.choice([-1, 1], parameter.shape)
        changed = fresh.forward(x * (1 + EPS * rng.choice([-1, 1], x.shape)))
        largest = max(largest, abs(float((grad_output * (changed - y)).sum())))
    return largest


def _largest_difference(
    name: str,
    gradient: np.ndarray,
    value: np.ndarray,
    loss: Callable[[np.ndarray], float],
    lost: float,
) -> float:
    if value.size == 0:
        return 0.0
    step = STEP * (max(float(value.std()), 1e-3 * float(np.abs(value).max())) or 1.0)
    (near, bend), (far, wide_bend) = (_differences(loss, value, k * step) for k in (1, 2))
    expected = (4 * near - far) / 3
    allowed = np.abs(near - far) + np.abs(wide_bend - 2 * bend) + lost / step
    difference = np.abs(gradient - expected)
    wrong = ~(difference <= allowed)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise GradientError(
            f"gradient of {name}: {list(at)} is {gradient[at]:.9g}, finite differences give "
            f"{expected[at]:.9g} ± {allowed[at]:.2g}; {int(wrong.sum())} of {wrong.size} are wrong"
        )
    return float(difference.max(initial=0))


def _check_dtypes(layer: Any, x: np.ndarray) -> None:
    for name, array in _arrays(layer, x):
        if array.dtype != np.float64:
            raise TypeError(
                f"check_gradients: expected {name} of dtype float64, got {array.dtype}: finite "
                "differences need its digits (layer.double(), x.astype(np.float64))"
            )


def _arrays(layer: Any, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "x", x
    for name, parameter in layer.named_parameters():
        yield name, parameter.data


def _check_form(name: str, gradient: Any, value: np.ndarray) -> None:
    if not isinstance(gradient, np.ndarray):
        got = "None" if gradient is None else type(gradient).__name__
        raise GradientError(f"gradient of {name}: expected an ndarray, got {got}")
    if gradient.shape != value.shape:
        raise GradientError(
            f"gradient of {name}: expected shape {value.shape}, got {gradient.shape}"
        )
