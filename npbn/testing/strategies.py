"""Hypothesis strategies for BatchNorm cases: shapes, layouts, conditioning, options.

What shrinks are shapes, options and exponents; values come from a drawn seed. The upstream
gradient is always drawn: an all-ones one hides every mistake in the input's gradient.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from npbn.testing.case import Case, Setup, Step


def _flipped(x: np.ndarray) -> np.ndarray:
    return np.flip(np.flip(x).copy())


def _read_only(x: np.ndarray) -> np.ndarray:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _broadcast(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x[:1], x.shape)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "channels last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "negative strides": _flipped,
    "zero strides": _broadcast,  # one sample, seen N times
    "read-only": _read_only,
}

Values = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal values."""
    return rng.normal(size=shape)


def constant(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return one value per channel."""
    along = (1, shape[1], *(1,) * (len(shape) - 2))
    return np.broadcast_to(rng.normal(size=along) * 10.0 ** rng.integers(-3, 4, along), shape)


def outlier(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal values, of which one sample's, the first one's or any, are enormous."""
    x = rng.normal(size=shape)
    x[rng.integers(len(x)) if rng.random() < 0.5 else 0] *= 10.0 ** rng.integers(3, 30)
    return x


def alternating(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return values of one magnitude and both signs, at any power of ten that float32 has."""
    return (
        rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1, shape) * 10.0 ** rng.integers(-40, 38)
    )


@st.composite
def shapes(
    draw: st.DrawFn, ranks: Sequence[int] = (2, 3, 4, 5), least: int = 2, most: int = 12
) -> tuple[int, ...]:
    """Shapes (N, C, ...) with at least `least` values a channel."""
    rank = draw(st.sampled_from(ranks))
    channels = draw(st.integers(1, 4))
    positions = [draw(st.integers(1, 4)) for _ in range(rank - 2)]
    needed = max(math.ceil(least / math.prod(positions)), 1)
    return (draw(st.integers(needed, max(needed, most))), channels, *positions)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    ranks: Sequence[int] = (2,),
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
    modes: Sequence[Sequence[bool]] = ((True,),),
    dtype: DTypeLike = np.float32,
    x_dtype: DTypeLike | None = None,
    values: Values = normal,
    ratios: Sequence[float] = (0.0, 1.0, 10.0),
    scales: Sequence[float] = (1.0, 0.01, 100.0),
    affine: Sequence[tuple[bool, bool]] = ((True, True),),
    tracked: Sequence[bool] = (True,),
    momenta: Sequence[float | None] = (0.1, 0.3),
    eps: Sequence[float] = (1e-5, 1e-3),
    layouts: Sequence[str] = ("contiguous",),
    counts: Sequence[int] = (0,),
    backward: bool = True,
) -> Case:
    """Cases; each argument lists what may be drawn.

    Parameters
    ----------
    ranks : sequence of int
        Of the input, unless `shape` draws shapes itself.
    shape : strategy
    modes : sequence of sequences of bool
        Training or evaluation, for each step.
    dtype : dtype
        Of parameters and running statistics, and of x unless `x_dtype` is given.
    values : callable
        Generator and shape to values.
    ratios : sequence of float
        |mean| / std: added to the values before they are scaled.
    scales : sequence of float
    affine : sequence of pairs of bool
        Whether there is a weight, and a bias.
    tracked : sequence of bool
        Whether there are running statistics.
    momenta, eps : sequence of float
    layouts : sequence of str
        Of :data:`LAYOUTS`.
    counts : sequence of int
        num_batches_tracked at the start.
    backward : bool
        Whether every step goes backward too.
    """
    dtype = np.dtype(dtype)
    x_dtype = np.dtype(x_dtype or dtype)
    form = draw(shapes(ranks) if shape is None else shape)
    mode = draw(st.sampled_from(modes))
    layout = LAYOUTS[draw(st.sampled_from(layouts))]
    has_weight, has_bias = draw(st.sampled_from(affine))
    is_tracked = draw(st.sampled_from(tracked))
    ratio, scale = draw(st.sampled_from(ratios)), draw(st.sampled_from(scales))
    momentum, epsilon = draw(st.sampled_from(momenta)), draw(st.sampled_from(eps))
    count = draw(st.sampled_from(counts))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = form[1]

    def vector(wanted: bool, numbers: np.ndarray) -> np.ndarray | None:
        largest = float(np.finfo(dtype).max)
        return numbers.clip(-largest, largest).astype(dtype) if wanted else None

    setup = Setup(
        channels,
        epsilon,
        momentum,
        weight=vector(has_weight, rng.uniform(0.5, 2, channels) * rng.choice([-1, 1], channels)),
        bias=vector(has_bias, rng.normal(size=channels)),
        running_mean=vector(is_tracked, scale * (ratio + rng.normal(size=channels))),
        running_var=vector(is_tracked, scale**2 * rng.uniform(0.5, 2, channels)),
        num_batches_tracked=count,
        dtype=dtype,
    )
    steps = []
    for training in mode:
        with np.errstate(over="ignore"):
            x = (scale * (values(rng, form) + ratio)).astype(x_dtype)
        grad = rng.normal(size=form).astype(x_dtype) if backward else None
        steps.append(Step(layout(x), training, None if grad is None else layout(grad)))
    return Case(setup, tuple(steps))
