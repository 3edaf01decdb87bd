"""The base of the BatchNorm layers: what is learnt and tracked, and which statistics are used."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.arguments import check_bool, check_integer, check_number
from npbn.errors import ShapeError
from npbn.functional.batch_norm import (
    batch_norm_backward,
    batch_norm_forward,
    normalise_and_average,
)
from npbn.functional.batch_norm_shards import updated_running_statistics
from npbn.functional.batches import rounded
from npbn.functional.checks import check_batch_norm, float_dtype, plainly_fits
from npbn.functional.statistics import BatchStatistics
from npbn.layers.module import Module
from npbn.layers.parameter import Parameter, check_writeable
from npbn.layers.rollback import recording


class BatchNorm(Module):
    """Base of the BatchNorm layers: all but the shapes of input that each of them takes.

    Parameters, attributes and errors are those of :class:`npbn.BatchNorm1d`.
    """

    input_shapes: ClassVar[dict[int, str]]  # by rank, for checks and messages
    # Called with the layer and every batch that has passed the checks, for update_batch_norm.
    observer: Callable[["BatchNorm", np.ndarray], None] | None = None

    weight: Parameter | None
    bias: Parameter | None
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    num_batches_tracked: np.ndarray | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ):
        who = type(self).__name__
        check_integer(who, "num_features", num_features, least=0)
        check_number(who, "eps", eps)
        if momentum is not None:
            check_number(who, "momentum", momentum)
        check_bool(who, "affine", affine)
        check_bool(who, "track_running_stats", track_running_stats)
        check_bool(who, "bias", bias)
        dtype = float_dtype(who, dtype)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine and bias else None
        for name, value in (
            ("running_mean", np.zeros(num_features, dtype)),
            ("running_var", np.ones(num_features, dtype)),
            ("num_batches_tracked", np.array(0, np.int64)),
        ):
            self.register_buffer(name, value if track_running_stats else None)

    @property
    def least_values(self) -> int:
        """Values per channel that a batch in training needs."""
        return 2

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count of batches to 0.

        Raises
        ------
        ValueError
            If one of them is read-only; nothing has been changed then.
        """
        if not self.track_running_stats:
            return
        self.check_writeable()
        self.write_running_stats(0, 1, 0)

    @np.errstate(all="ignore")  # a variance beyond float32 is infinite
    def write_running_stats(self, mean: ArrayLike, var: ArrayLike, batches: ArrayLike) -> None:
        """Write running mean, running variance and the count of batches, in place."""
        for array, values in (
            (self.running_mean, mean),
            (self.running_var, var),
            (self.num_batches_tracked, batches),
        ):
            if array is not None:
                array[...] = values

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0, and reset the running statistics.

        Raises
        ------
        ValueError
            If one of them is read-only; nothing has been changed then.
        """
        check_writeable(self._who(), self.weight, self.bias)
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1), (self.bias, 0)):
            if parameter is not None:
                parameter.data[...] = value
                parameter.changed()

    def check_writeable(self) -> None:
        """Raise ValueError if one of the running statistics is read-only."""
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if not (
            (mean is None or mean.flags.writeable)
            and (var is None or var.flags.writeable)
            and (count is None or count.flags.writeable)
        ):
            raise ValueError(
                f"{self._who()}: expected running_mean, running_var and num_batches_tracked that "
                "can be written to, got a read-only one"
            )

    def _apply(self, x: ArrayLike, predict: bool) -> tuple[np.ndarray, Any]:
        x = np.asarray(x)
        if x.ndim not in self.input_shapes:
            expected = " or ".join(self.input_shapes.values())
            raise ShapeError(
                f"{self._who()}: expected input of shape "
                f"{expected.replace('C', str(self.num_features))}, got {x.shape}"
            )
        training = self.training and not predict
        mean, var = self.running_mean, self.running_var
        weight = None if self.weight is None else self.weight.data
        bias = None if self.bias is None else self.bias.data
        vectors = (mean, var, weight, bias)
        by_batch = training or (mean is None and var is None)
        if not plainly_fits(x, self.num_features, vectors, by_batch, self.eps):
            check_batch_norm(
                self._who(), x, self.num_features, vectors, by_batch, self.eps, self.least_values
            )
        if self.observer is not None:
            self.observer(self, x)
        if training:
            return self._apply_in_training(x, weight, bias)
        return batch_norm_forward(x, mean, var, weight, bias, by_batch, self.eps)

    def _who(self) -> str:
        return f"{type(self).__name__}({self.num_features})"

    def _apply_in_training(
        self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> tuple[np.ndarray, Any]:
        """Return output and cache of a batch that has passed the checks; track its statistics."""
        if not self.track_running_stats:
            return batch_norm_forward(x, None, None, weight, bias, True, self.eps)
        momentum, seen = self._before_tracking(x.size > 0)
        y, cache, averages = normalise_and_average(
            x, self.running_mean, self.running_var, weight, bias, momentum, self.eps
        )
        self._write(averages, seen)
        return y, cache

    def _track(self, statistics: BatchStatistics) -> None:
        """Average statistics that a subclass has measured into the running statistics."""
        mean, var = self.running_mean, self.running_var
        momentum, seen = self._before_tracking(statistics.count > 0)
        averages = None
        if mean is not None and var is not None:
            averages = updated_running_statistics(mean, var, statistics, momentum)
        self._write(averages, seen)

    def _before_tracking(self, has_values: bool) -> tuple[float, int]:
        """Return the momentum, and the count of batches after this one.

        Statistics that cannot be written to are refused.
        Momentum None weighs all batches alike, but for empty ones, which have no value to weigh.
        """
        self.check_writeable()
        tracked, momentum = self.num_batches_tracked, self.momentum
        seen = 0 if tracked is None else tracked.item()
        if momentum is not None or has_values:
            seen += 1
        if momentum is None:
            momentum = 1 / seen if tracked is not None and seen else 0.0
        return momentum, seen

    def _write(self, averages: tuple[np.ndarray, np.ndarray] | None, seen: int) -> None:
        """Write the new running mean and variance and the count of batches.

        All is computed before anything is written: a failure or an interrupt up to here has
        changed nothing. CPython 3.11 and later look for Ctrl-C at calls and at the ends of loops,
        and so not between the assignments.
        """
        mean, var, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        changes = recording.changes
        if changes is not None:
            arrays = (array for array in (mean, var, tracked) if array is not None)
            changes += [(array, array.copy()) for array in arrays]
        if averages is not None and mean is not None and var is not None:
            mean[...], var[...] = averages
        if tracked is not None:
            # After the last int64 comes the first, as in torch. np.add takes 1 µs more.
            tracked[...] = seen if seen < 2**63 else -(2**63)

    def _backward(self, grad_output: np.ndarray, cache: Any, input_grad: bool) -> np.ndarray | None:
        grad_input, grad_weight, grad_bias = self._gradients(grad_output, cache, input_grad)
        if self.weight is not None:
            self.weight.accumulate(rounded(grad_weight, self.weight.dtype))
        if self.bias is not None:
            self.bias.accumulate(rounded(grad_bias, self.bias.dtype))
        return grad_input

    def _gradients(
        self, grad_output: np.ndarray, cache: Any, input_grad: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Return the gradients of input, weight and bias."""
        return batch_norm_backward(grad_output, cache, input_grad)

    def _arguments(self) -> dict[str, object]:
        """Return the arguments after num_features by name, in the order in which torch prints."""
        return {
            "eps": self.eps,
            "momentum": self.momentum,
            "affine": self.affine,
            "bias": self.bias is not None,
            "track_running_stats": self.track_running_stats,
        }

    def extra_repr(self) -> str:
        """Return the arguments, as torch prints them.

        Returns
        -------
        str
            The text between the parentheses.
        """
        named = [f"{name}={value}" for name, value in self._arguments().items()]
        return ", ".join([str(self.num_features), *named])
