"""The protocol of an implementation to be checked, and adapters for classes and functions."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from npbn.errors import NpbnError
from npbn.testing.case import Case, Setup, Step
from npbn.testing.convention_table import find_convention
from npbn.testing.layouts import laid_out
from npbn.testing.names import VECTORS

Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


class CannotConstructError(NpbnError, RuntimeError):
    """A target cannot be made at all; raised by `make`, reported once, exit status 2."""


class BatchNorm(Protocol):
    """One BatchNorm under test, as an implementation makes it from a :class:`Setup`.

    It may also have ``load(setup)``, which takes weight, bias and running statistics of another
    :class:`Setup` between two steps; without it, what needs that is not checked.

    Attributes
    ----------
    running_mean, running_var : ndarray, shape (C,), or None
        Read after every step.
    num_batches_tracked : int or None
        Read after every step, unless the implementation does not support "counter".
    """

    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    num_batches_tracked: Any

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Return the output, of x's shape and dtype; update the running statistics in training.

        Parameters
        ----------
        x : ndarray
            The input.
        training : bool
            Whether the batch normalises.

        Returns
        -------
        ndarray, shape and dtype of x
            The output.
        """

    def backward(self, grad_output: np.ndarray) -> Gradients:
        """Return the gradients of input, weight and bias (None where there is none).

        Parameters
        ----------
        grad_output : ndarray, shape and dtype of the output
            Of the latest forward pass.

        Returns
        -------
        grad_input : ndarray, shape and dtype of the input
            The gradient of the input.
        grad_weight : ndarray, shape (C,), or None
            The gradient of the weight.
        grad_bias : ndarray, shape (C,), or None
            The gradient of the bias.
        """


class Implementation:
    """A way to make BatchNorms, and what they do not support.

    Parameters
    ----------
    make : callable
        :class:`Setup` to :class:`BatchNorm`.
    name : str
        For the report.
    unsupported : iterable of str
        Of :data:`CAPABILITIES`; behaviours that need them are reported as not supported.
    convention : str
        Of :data:`npbn.testing.conventions.CONVENTIONS`: what momentum weighs, which variance is
        stored and which pass moves the running statistics. :attr:`Setup.momentum` is passed
        unchanged; what is expected follows from the convention. Without `cumulative` there is no
        ``momentum=None``, no counter and no refusal of one value per channel to be checked.

    Attributes
    ----------
    make, name
        As given.
    unsupported : frozenset of str
        With what the convention does not have.
    convention : Convention
    convention_name : str
    """

    def __init__(
        self,
        make: Callable[[Setup], BatchNorm],
        name: str,
        unsupported: Iterable[str] = (),
        convention: str = "pytorch",
    ):
        unknown = sorted(set(unsupported) - CAPABILITIES.keys())
        if unknown:
            raise ValueError(f"unsupported: expected some of {sorted(CAPABILITIES)}, got {unknown}")
        self.make = make
        self.name = name
        self.convention, self.convention_name = find_convention(convention), convention
        absent = () if self.convention.cumulative else ONLY_CUMULATIVE
        self.unsupported = frozenset((*unsupported, *absent))

    def takes(self, rank: int) -> bool:
        """Return whether inputs of this rank, or of a higher one, are supported.

        Parameters
        ----------
        rank : int
            Of an input, 2 to 5.

        Returns
        -------
        bool
            Whether there is such a rank.
        """
        return any(f"rank{higher}" not in self.unsupported for higher in range(rank, 6))

    def adapt(self, case: Case) -> Case:
        """Return the case as this implementation can take it.

        Axes of length 1 are appended up to a rank that is supported, or positions are merged down
        to one. Without a backward pass steps go forward alone; without training all are steps of
        evaluation, without evaluation all are steps of training.

        Parameters
        ----------
        case : Case
            As the suite draws it.

        Returns
        -------
        Case
            The same with what is supported.
        """
        return replace(case, steps=tuple(self._adapt(step) for step in case.steps))

    def _adapt(self, step: Step) -> Step:
        training = step.training or "evaluation" in self.unsupported
        training = training and "training" not in self.unsupported
        backward = {"backward"} if training else {"backward", "eval_backward"}
        grad = None if backward & self.unsupported else step.grad_output
        ranks = [rank for rank in (2, 3, 4, 5) if f"rank{rank}" not in self.unsupported]
        x, grad = _of_rank(step.x, ranks), None if grad is None else _of_rank(grad, ranks)
        return replace(step, x=x, training=training, grad_output=grad)


def _of_rank(x: np.ndarray, ranks: list[int]) -> np.ndarray:
    """Return x with the next higher of these ranks, or else with the next lower one."""
    if x.ndim in ranks or not ranks:
        return x
    higher = [rank for rank in ranks if rank > x.ndim]
    if higher:
        return x.reshape(*x.shape, *(1,) * (higher[0] - x.ndim))
    if ranks[-1] == 2:  # positions are samples then
        return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    kept = ranks[-1] - 1
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))


CAPABILITIES = {
    "training": "normalises by the batch",
    "evaluation": "normalises by the running statistics",
    "backward": "has a backward pass",
    "eval_backward": "has a backward pass in evaluation",
    "running_statistics": "updates running statistics in training",
    "counter": "counts the batches in num_batches_tracked",
    "momentum_none": "averages all batches with momentum=None",
    "no_affine": "works without weight and bias",
    "weight_alone": "works with a weight and no bias",
    "bias_alone": "works with a bias and no weight",
    "untracked": "works without running statistics",
    "rank2": "takes (N, C)",
    "rank3": "takes (N, C, L)",
    "rank4": "takes (N, C, H, W)",
    "rank5": "takes (N, C, D, H, W)",
    "float16": "takes float16 input with float32 parameters",
    "float64": "takes float64 input and parameters",
    "double_scalars": "holds eps and momentum in float64",
    "layouts": "takes inputs that are not contiguous",
    "vector_layouts": "takes weights and statistics that are not contiguous",
    "empty": "takes an empty batch",
    "errors": "refuses one value per channel in training",
    "clean_errors": "has changed nothing when it refuses",
    "non_finite": "lets NaN and infinity through",
    "reload": "takes other weights and statistics between steps",
    "threads": "can be used from two threads, a layer in each",
}
ONLY_CUMULATIVE = ("momentum_none", "counter", "errors", "clean_errors")


def class_implementation(cls: type, unsupported: tuple[str, ...] = ()) -> Implementation:
    """Check a class of the plain protocol.

    It is made as ``cls(num_features, eps=..., momentum=...)``, then given its arrays by
    assignment to ``weight``, ``bias``, ``running_mean`` and ``running_var`` (each an ndarray
    of shape (C,) or None) and ``num_batches_tracked`` (an int). Then ``forward(x, training)``
    and ``backward(grad_output)`` are called as :class:`BatchNorm` describes. Attributes
    ``unsupported`` of the class, a tuple of :data:`CAPABILITIES`, and ``convention``, one of
    :data:`npbn.testing.conventions.CONVENTIONS`, are used.

    Parameters
    ----------
    unsupported : tuple of str
        Of :data:`CAPABILITIES`.

    Returns
    -------
    Implementation
        For :func:`check_batch_norm`.
    """

    class Layer:
        def __init__(self, setup: Setup):
            self.layer = cls(setup.num_features, eps=setup.eps, momentum=setup.momentum)
            self.load(setup)
            self.layer.num_batches_tracked = setup.num_batches_tracked if setup.tracks else None

        def load(self, setup: Setup) -> None:
            for name in VECTORS:
                setattr(self.layer, name, laid_out(getattr(setup, name), setup.layout))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.__dict__["layer"], name)

    missing = (*unsupported, *getattr(cls, "unsupported", ()))
    convention = getattr(cls, "convention", "pytorch")
    return Implementation(Layer, cls.__name__, missing, convention)


def function_implementation(
    function: Callable[..., np.ndarray], unsupported: tuple[str, ...] = ()
) -> Implementation:
    """Check a function with the signature of ``torch.nn.functional.batch_norm``.

    That is ``function(x, running_mean, running_var, weight, bias, training, momentum, eps)``,
    which updates the running statistics in place in training. It has no backward pass, no
    counter and no ``momentum=None``.

    Parameters
    ----------
    function : callable
        The function.
    unsupported : tuple of str
        Of :data:`CAPABILITIES`.

    Returns
    -------
    Implementation
        For :func:`check_batch_norm`.
    """

    class Layer:
        weight: np.ndarray | None
        bias: np.ndarray | None
        running_mean: np.ndarray | None
        running_var: np.ndarray | None

        def __init__(self, setup: Setup):
            self.setup = setup
            self.num_batches_tracked = None
            self.load(setup)

        def load(self, setup: Setup) -> None:
            for name in VECTORS:
                setattr(self, name, laid_out(getattr(setup, name), setup.layout))

        def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
            by_batch = training or self.running_mean is None
            vectors = (self.running_mean, self.running_var, self.weight, self.bias)
            return function(x, *vectors, by_batch, self.setup.momentum, self.setup.eps)

        def backward(self, grad_output: np.ndarray) -> Gradients:
            raise TypeError("a plain function has no backward pass")

    missing = ("backward", "eval_backward", "counter", "momentum_none", "clean_errors")
    name = getattr(function, "__name__", type(function).__name__)
    return Implementation(Layer, name, (*unsupported, *missing))
