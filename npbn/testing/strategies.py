"""Hypothesis strategies for BatchNorm cases: shapes, layouts, conditioning, options.

What shrinks are shapes, options and exponents; values come from a drawn seed. The upstream
gradient is always drawn: an all-ones one hides every mistake in the input's gradient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import DTypeLike

from npbn.testing.case import Case, Setup, Step
from npbn.testing.names import VECTORS

Values = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal values."""
    return rng.normal(size=shape)


def constant(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return one value per channel."""
    along = (1, shape[1], *(1,) * (len(shape) - 2))
    return np.broadcast_to(rng.normal(size=along) * 10.0 ** rng.integers(-3, 4, along), shape)


def outlier(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal values with outliers in one sample, the first or any."""
    x = rng.normal(size=shape)
    x[rng.integers(len(x)) if rng.random() < 0.5 else 0] *= 10.0 ** rng.integers(3, 30)
    return x


def alternating(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return values of one magnitude and both signs, at any power of ten that float32 has."""
    return (
        rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1, shape) * 10.0 ** rng.integers(-40, 38)
    )


def trending(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal values with a trend over all axes: no part is representative of the whole."""
    trend = sum(
        np.linspace(-2, 2, n).reshape(-1, *(1,) * (len(shape) - 1 - axis)) * (axis != 1)
        for axis, n in enumerate(shape)
    )
    return rng.normal(size=shape) + trend


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


CHANNELS = (1, 3, 5, 8, 9, 17, 33, 64, 70)
POSITIONS = (1, 7, 8, 9, 49, 256)
ROWS = (2, 3, 5, 16, 31, 257, 300)


@st.composite
def odd_sizes(
    draw: st.DrawFn, ranks: Sequence[int] = (2, 3), most: int = 20_000
) -> tuple[int, ...]:
    """Shapes around the widths of vector registers and blocks, of up to `most` values."""
    rank = draw(st.sampled_from(ranks))
    channels = draw(st.sampled_from(CHANNELS))
    positions = (draw(st.sampled_from(POSITIONS)), 1, 1)[: rank - 2]
    within = [n for n in ROWS if n * channels * math.prod(positions) <= most]
    return (draw(st.sampled_from(within or ROWS[:1])), channels, *positions)


def held(*numbers: float) -> tuple[float, ...]:
    """Return numbers rounded to float32: formats such as ONNX keep eps and momentum in it."""
    return tuple(float(np.float32(number)) for number in numbers)


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
    zero_weights: bool = False,
    tracked: Sequence[bool] = (True,),
    momenta: Sequence[float | None] = held(0.1, 0.3),
    eps: Sequence[float] = held(1e-5, 1e-3),
    layouts: Sequence[str] = ("contiguous",),
    vector_layouts: Sequence[str] = ("contiguous",),
    counts: Sequence[int] = (0,),
    backward: bool = True,
    varying: bool = False,
    loads: bool = False,
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
        |mean| / std at most: each channel has its own mean.
    scales : sequence of float
    affine : sequence of pairs of bool
        Whether there is a weight, and a bias.
    zero_weights : bool
        Whether half of the weights are 0.
    tracked : sequence of bool
        Whether there are running statistics.
    momenta, eps : sequence of float
    layouts : sequence of str
        Of :data:`npbn.testing.layouts.LAYOUTS`, drawn for x and grad_output on their own.
    vector_layouts : sequence of str
    counts : sequence of int
        num_batches_tracked at the start.
    backward : bool
        Whether every step goes backward too.
    varying : bool
        Whether each step has another shape.
    loads : bool
        Whether each step but the first begins with other weights and statistics.
    """
    dtype = np.dtype(dtype)
    x_dtype = np.dtype(x_dtype or dtype)
    form = draw(shapes(ranks) if shape is None else shape)
    mode = draw(st.sampled_from(modes))
    has_weight, has_bias = draw(st.sampled_from(affine))
    is_tracked = draw(st.sampled_from(tracked))
    ratio, scale = draw(st.sampled_from(ratios)), draw(st.sampled_from(scales))
    plain = Setup(
        form[1],
        eps=draw(st.sampled_from(eps)),
        momentum=draw(st.sampled_from(momenta)),
        num_batches_tracked=draw(st.sampled_from(counts)),
        dtype=dtype,
        layout=draw(st.sampled_from(vector_layouts)),
    )
    forms = [_another(draw, form) if varying and i else form for i in range(len(mode))]
    layout = [(draw(st.sampled_from(layouts)), draw(st.sampled_from(layouts))) for _ in mode]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    means = ratio * rng.choice([-1, -0.25, 0.5, 1], form[1])
    wanted = has_weight, has_bias, is_tracked

    def setup() -> Setup:
        return _with_vectors(plain, rng, scale, means, wanted, zero_weights)

    first, steps = setup(), []
    for number, (training, size) in enumerate(zip(mode, forms, strict=True)):
        along = (1, -1, *(1,) * (len(size) - 2))
        with np.errstate(over="ignore"):
            x = (scale * (values(rng, size) + means.reshape(along))).astype(x_dtype)
        grad = rng.normal(size=size).astype(x_dtype) if backward else None
        load = setup() if loads and number else None
        steps.append(_laid_out(Step(x, training, grad, *layout[number], load)))
    return Case(first, tuple(steps))


def _another(draw: st.DrawFn, form: tuple[int, ...]) -> tuple[int, ...]:
    """Draw another shape with as many channels and axes, and at least two values a channel."""
    positions = [draw(st.integers(1, 5)) for _ in form[2:]]
    return (draw(st.integers(2, 14)), form[1], *positions)


def _with_vectors(
    setup: Setup,
    rng: np.random.Generator,
    scale: float,
    means: np.ndarray,
    wanted: tuple[bool, bool, bool],
    zero_weights: bool,
) -> Setup:
    """Draw weight, bias and running statistics; `wanted` says which are present."""
    channels, largest = setup.num_features, float(np.finfo(setup.dtype).max)
    weight = rng.uniform(0.5, 2, channels) * rng.choice([-1, 1], channels)
    if zero_weights:
        weight *= rng.choice([0, 1], channels)
    bias = rng.normal(size=channels)
    mean = scale * (means + rng.normal(size=channels))
    var = scale**2 * rng.uniform(0.5, 2, channels)
    has_weight, has_bias, is_tracked = wanted
    there = (has_weight, has_bias, is_tracked, is_tracked)
    drawn = (
        numbers.clip(-largest, largest).astype(setup.dtype) if present else None
        for numbers, present in zip((weight, bias, mean, var), there, strict=True)
    )
    vectors: dict[str, Any] = dict(zip(VECTORS, drawn, strict=True))
    return replace(setup, **vectors)


def _laid_out(step: Step) -> Step:
    """Return the step with the values that its layouts give: zero strides repeat one sample."""
    grad = step.given_grad
    return replace(
        step,
        x=np.ascontiguousarray(step.given),
        grad_output=None if grad is None else np.ascontiguousarray(grad),
    )
