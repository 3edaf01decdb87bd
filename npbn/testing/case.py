"""One BatchNorm to check: its setup and its steps."""

from dataclasses import dataclass

import numpy as np

from npbn.testing.layouts import LAYOUTS, laid_out

FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Setup:
    """How a BatchNorm starts out.

    Attributes
    ----------
    num_features : int
        C.
    eps : float
    momentum : float or None
        Weight of the new value in the running statistics; None is the plain average.
    weight, bias : ndarray, shape (C,), or None
    running_mean, running_var : ndarray, shape (C,), or None
        Both None: nothing is tracked, and the batch normalises in evaluation too.
    num_batches_tracked : int
        Batches seen so far; it matters where `momentum` is None.
    dtype : numpy.dtype
        Of all these arrays.
    layout : str
        Of :data:`npbn.testing.layouts.VECTOR_LAYOUTS`: the memory layout that they have.
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    running_mean: np.ndarray | None = None
    running_var: np.ndarray | None = None
    num_batches_tracked: int = 0
    dtype: np.dtype = FLOAT32
    layout: str = "contiguous"

    @property
    def tracks(self) -> bool:
        """Whether there are running statistics."""
        return self.running_mean is not None

    @property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Running mean and variance, where they are tracked."""
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean, self.running_var


@dataclass(frozen=True)
class Step:
    """One forward pass and, perhaps, its backward pass.

    Attributes
    ----------
    x : ndarray, shape (N, C, ...)
    training : bool
    grad_output : ndarray, shape and dtype of x, or None
        Upstream gradient; None goes forward alone.
    layout, grad_layout : str
        Of :data:`npbn.testing.layouts.LAYOUTS`: the memory layouts of x and grad_output.
    load : Setup or None
        Weight, bias and running statistics that replace the present ones before the step.
    """

    x: np.ndarray
    training: bool
    grad_output: np.ndarray | None = None
    layout: str = "contiguous"
    grad_layout: str = "contiguous"
    load: Setup | None = None

    @property
    def given(self) -> np.ndarray:
        """A copy of x in its layout."""
        return LAYOUTS[self.layout](self.x)

    @property
    def given_grad(self) -> np.ndarray | None:
        """A copy of grad_output in its layout, or None."""
        return laid_out(self.grad_output, self.grad_layout)


@dataclass(frozen=True)
class Case:
    """A BatchNorm and the steps it takes, one after the other.

    Attributes
    ----------
    setup : Setup
        Options, parameters and statistics.
    steps : tuple of Step
        Each a forward pass, most with a backward pass.
    """

    setup: Setup
    steps: tuple[Step, ...]
