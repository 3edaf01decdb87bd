"""What an engine has to define: :mod:`npbn.engines.numpy_` says what each function computes."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from npbn.engines.windows import Windows

Array = np.ndarray


class Engine(Protocol):
    """A module with these functions; one that it leaves out is the NumPy engine's."""

    def run(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Return ``function(*arguments)``, of a function that :func:`npbn.engines.fused` marks."""

    # -- BatchNorm --------------------------------------------------------------------------

    def moments(self, x: Array, out: Array) -> int:
        """Write mean, rest and m2 of each channel; return the count."""

    def affine(
        self, x: Array, mean: Array, rest: Array, scale: Array, shift: Array, out: Array
    ) -> None:
        """Write d · scale + shift, with d = (x − mean) − rest."""

    def reduce(self, grad: Array, x: Array, mean: Array, rest: Array) -> tuple[Array, Array]:
        """Return Σ grad and Σ grad · d of each channel."""

    def combine(
        self,
        grad: Array,
        x: Array,
        mean: Array,
        rest: Array,
        a: Array,
        b: Array,
        c: Array,
        out: Array,
    ) -> None:
        """Write a · grad + b · d + c."""

    # -- other layers, losses and optimizers ------------------------------------------------

    def relu_forward(self, x: Array) -> Array:
        """Return max(x, 0)."""

    def relu_backward(self, grad: Array, x: Array) -> Array:
        """Return `grad` where x > 0 or x is NaN, else 0."""

    def cross_entropy_forward(
        self,
        logits: Array,
        target: Array,
        ignore_index: int,
        class_weight: Array,
        label_smoothing: float,
    ) -> tuple[Array, float, Array, Array, float]:
        """Return losses, their sum, term weights, probabilities, the sum of term weights."""

    def cross_entropy_backward(
        self,
        factor: Array,
        target: Array,
        ignore_index: int,
        class_weight: Array,
        label_smoothing: float,
        term_weight: Array,
        probabilities: Array,
        grad: Array,
    ) -> None:
        """Write the gradient of Σ factor · losses."""

    def gather(self, x: Array, rows: Windows, columns: Windows) -> Array:
        """Return the patches of images."""

    def scatter(self, patches: Array, rows: Windows, columns: Windows, x: Array) -> None:
        """Add patches to images, in place."""

    def max_pool(self, x: Array, rows: Windows, columns: Windows) -> Array:
        """Return the maximum of each window."""

    def max_pool_backward(self, grad: Array, x: Array, rows: Windows, columns: Windows) -> Array:
        """Return the gradient of x."""

    def sgd(
        self,
        values: Array,
        grad: Array,
        buffer: Array | None,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        maximize: bool,
    ) -> None:
        """Update `values` and `buffer` in place."""
