"""The fixed cases that :mod:`npbn.testing.export` writes: one step each, the same on every run.

Numbers come from raw bits of PCG64, a stream of their own for each case; NumPy promises that
these stay as they are, and promises nothing of its distributions.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from npbn.testing.case import Setup, Step

DTYPES = ("float16", "float32", "float64")
SHAPES = {2: (8, 3), 3: (4, 3, 3), 4: (3, 3, 2, 2), 5: (2, 3, 2, 1, 2)}
MODES = (True, False)
AFFINE = tuple(itertools.product(MODES, MODES))  # weight, bias


@dataclass(frozen=True)
class Recipe:
    """What a case is made of; the values themselves are drawn.

    Attributes
    ----------
    about : str
        What the case is there for.
    mean, std : float
        Of a channel, in units of `scale`; the signs of the means alternate.
    outlier : float or None
        Takes the place of each channel's first value, in units of `scale`.
    alternating : bool
        Every value is ±`scale`, in turn.
    seen : int
        Batches seen before.
    """

    about: str
    shape: tuple[int, ...]
    dtype: str
    training: bool
    mean: float = 0.5
    std: float = 1.0
    scale: float = 1.0
    outlier: float | None = None
    alternating: bool = False
    weight: bool = True
    bias: bool = True
    zero_weight: bool = False
    zero_grad: bool = False
    tracked: bool = True
    running_var: float | None = None
    momentum: float | None = 0.1
    eps: float = 1e-5
    seen: int = 3


def fixed_cases() -> Iterator[tuple[str, Setup, Step]]:
    """Yield a description, a setup and a step, a few hundred times."""
    for number, recipe in enumerate(_recipes()):
        yield _describe(recipe), *_draw(recipe, _Stream(number))


def _recipes() -> Iterator[Recipe]:
    """Yield the families of cases; in each, what is not its subject takes turns."""
    # Five in turn, so that each rank meets both modes.
    shapes, modes = itertools.cycle((*SHAPES.values(), (8, 3))), itertools.cycle(MODES)
    eps, scales = itertools.cycle((1e-5, 1e-3)), itertools.cycle((1, 0.01, 100))
    seen = itertools.cycle((0, 9))

    for dtype, shape, mode in itertools.product(DTYPES, SHAPES.values(), MODES):
        for weight, bias in AFFINE:
            rest: dict[str, Any] = {"eps": next(eps), "scale": next(scales)}
            yield Recipe("options", shape, dtype, mode, weight=weight, bias=bias, **rest)
        weight, bias = AFFINE[len(shape) - 2]
        yield Recipe("no statistics", shape, dtype, mode, tracked=False, weight=weight, bias=bias)
        if mode or len(shape) == 2:
            yield Recipe("empty batch", (0, *shape[1:]), dtype, mode)

    for dtype, momentum in itertools.product(DTYPES, (0.0, 0.9, 1.0, None, -0.5, 1.5)):
        for _ in range(2):
            yield Recipe("momentum", next(shapes), dtype, True, momentum=momentum, seen=next(seen))
        if momentum in (None, 1.5):
            yield Recipe("momentum", next(shapes), dtype, False, momentum=momentum)

    # |mean| / std: what centring cancels. Beyond 1/eps of the dtype all values are the same.
    for dtype, largest in zip(DTYPES, (1e3, 1e6, 1e8), strict=True):
        for power, mode in itertools.product(range(round(np.log10(largest)) + 1), MODES):
            yield Recipe("mean/std", next(shapes), dtype, mode, mean=10.0**power)
        yield Recipe("mean/std, many values", (150, 1), dtype, True, mean=largest)

    wide = (1e-30, 1e-20, 1e-10, 1e-5, 1e5, 1e10, 1e20, 1e30)
    for dtype, values in zip(DTYPES, ((1e-6, 1e-3, 1e3), wide, wide), strict=True):
        for scale, mode in itertools.product(values, MODES):
            yield Recipe("scale", next(shapes), dtype, mode, scale=scale)

    constants = ((0.0, -0.1, 1e3), (0.0, -0.1, 1e6, 1e30), (0.0, -0.1, 1e8, 1e30))
    for dtype, values in zip(DTYPES, constants, strict=True):
        for value, mode in itertools.product(values, MODES):
            yield Recipe("constant", next(shapes), dtype, mode, mean=value, std=0.0)

    outliers = ((1e2, 1e4), (1e4, 1e8, 1e30), (1e4, 1e12, 1e30))
    for dtype, values in zip(DTYPES, outliers, strict=True):
        for value, mode in itertools.product(values, MODES):
            yield Recipe("one outlier", next(shapes), dtype, mode, outlier=value)

    for dtype in DTYPES:
        for scale in (1.0, 1e4 if dtype == "float16" else 1e30):
            yield Recipe(
                "±x in turn", next(shapes), dtype, next(modes), scale=scale, alternating=True
            )
        for value in (1e-8, 1e-2, 1.0, 1e3):
            yield Recipe("eps", next(shapes), dtype, next(modes), eps=value, scale=0.1)
            yield Recipe("eps", next(shapes), dtype, next(modes), eps=value, scale=0.1)
        yield Recipe("eps = 0", next(shapes), dtype, False, eps=0.0)
        yield Recipe("running_var = 0", next(shapes), dtype, False, running_var=0.0)
        yield Recipe("weight = 0", next(shapes), dtype, next(modes), zero_weight=True)
        yield Recipe("grad_output = 0", next(shapes), dtype, next(modes), zero_grad=True)
        for shape in ((2, 3), (1, 3, 2), (1, 3, 2, 1), (1, 3, 1, 1, 2)):
            yield Recipe("two values a channel", shape, dtype, True)
        yield Recipe("one value a channel", (1, 3), dtype, False)
        yield Recipe("many channels", (3, 40), dtype, next(modes))
        yield Recipe("many values", (20, 2, 15), dtype, next(modes))


def _describe(recipe: Recipe) -> str:
    """Return one line that describes a case."""
    shown: dict[str, float | None] = {"eps": recipe.eps}
    if recipe.tracked:
        shown["momentum"] = recipe.momentum
    if recipe.outlier is not None:
        shown["outlier"] = recipe.outlier
    shown.update(mean=recipe.mean, std=recipe.std, scale=recipe.scale)
    absent = [name for name in ("weight", "bias") if not getattr(recipe, name)]
    return ", ".join(
        [
            f"{recipe.about}: {recipe.dtype} of shape {recipe.shape}",
            "training" if recipe.training else "evaluation",
            *(f"{name} {value}" for name, value in shown.items()),
            *(f"no {name}" for name in absent),
        ]
    )


class _Stream:
    """The numbers of one case."""

    def __init__(self, number: int):
        self.bits = np.random.PCG64([2015, number])

    def uniform(self, *shape: int) -> np.ndarray:
        """Draw from [0, 1)."""
        raw = self.bits.random_raw(int(np.prod(shape, dtype=int)))
        drawn: np.ndarray = (raw >> np.uint64(11)).reshape(shape) * 2.0**-53
        return drawn

    def noise(self, *shape: int) -> np.ndarray:
        """Draw sums of four uniform numbers, of mean 0 and standard deviation 1."""
        drawn: np.ndarray = (self.uniform(4, *shape).sum(axis=0) - 2) * np.sqrt(3)
        return drawn


def _draw(recipe: Recipe, stream: _Stream) -> tuple[Setup, Step]:
    """Draw the case's numbers."""
    shape, dtype = recipe.shape, np.dtype(recipe.dtype)
    channels = shape[1]
    # float16 goes with float32 parameters
    parameter_dtype = np.promote_types(dtype, np.float32)
    signs = np.where(np.arange(channels) % 2, -1.0, 1.0)
    along = (-1, *(1,) * (len(shape) - 2))

    x = stream.noise(*shape) * recipe.std + (signs * recipe.mean).reshape(along)
    if recipe.outlier is not None:
        first: tuple[Any, ...] = (0, slice(None), *(0,) * (len(shape) - 2))
        x[first] = recipe.outlier * signs
    if recipe.alternating:
        order = np.arange(x[:, 0].size).reshape(x[:, :1].shape)
        x = np.broadcast_to(np.where(order % 2, -1.0, 1.0), shape)
    grad_output = stream.noise(*shape) * (0 if recipe.zero_grad else 1)

    weight = stream.noise(channels) * (0 if recipe.zero_weight else 1)
    bias, mean_noise, var_noise = stream.noise(3, channels)
    running_mean = (signs * recipe.mean + 0.1 * mean_noise * max(recipe.std, 0.1)) * recipe.scale
    running_var = (0.5 + abs(var_noise)) * recipe.scale**2
    running_var = np.clip(running_var, 1e-30, 1e30)
    if recipe.running_var is not None:
        running_var[:] = recipe.running_var

    def parameter(values: np.ndarray, present: bool) -> np.ndarray | None:
        return values.astype(parameter_dtype) if present else None

    setup = Setup(
        channels,
        recipe.eps,
        recipe.momentum,
        weight=parameter(weight, recipe.weight),
        bias=parameter(bias, recipe.bias),
        running_mean=parameter(running_mean, recipe.tracked),
        running_var=parameter(running_var, recipe.tracked),
        num_batches_tracked=recipe.seen if recipe.tracked else 0,
        dtype=parameter_dtype,
    )
    x = np.ascontiguousarray((x * recipe.scale).astype(dtype))
    return setup, Step(x, recipe.training, grad_output.astype(dtype))
