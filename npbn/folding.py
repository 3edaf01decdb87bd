"""BatchNorm folded into the layers beside it: the same predictions by fewer layers.

In evaluation BatchNorm is an affine map of each channel, y = s · x + t, with s = weight /
sqrt(var + eps) and t = bias − s · mean, by the running statistics. A Linear or Conv2d before it
takes it in (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, arXiv:1712.05877, section 3.2)::

    s · (W x + b) + t = (s W) x + (s · b + t)

and so does one after it, a convolution only without padding, whose zeros BatchNorm never saw::

    W (s · x + t) + b = (W s) x + (b + W t)
"""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npbn.errors import ConfigError
from npbn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Identity,
    Linear,
    Module,
    Parameter,
    Sequential,
)
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.plain import computes

__all__ = ["fold_batch_norm"]

BEFORE, AFTER = "before", "after"


@np.errstate(all="ignore")
def fold_batch_norm(net: Sequential) -> Sequential:
    """Return an equal network, in eval mode, with every BatchNorm folded into a layer beside it.

    A BatchNorm1d goes into a Linear, a BatchNorm2d into a Conv2d: the one before it or, where it
    cannot, the one after it. Only Identity and Dropout may stand between.

    Parameters
    ----------
    net : Sequential, nested or not
        Left as it is. Linear layers are taken to get inputs (N, features): of (N, C, L) BatchNorm1d
        normalises C, which is not what Linear gives, and nothing here tells the one from the other.

    Returns
    -------
    Sequential
        It shares nothing with `net`. Layers keep their names, and parameters their
        ``requires_grad``; a bias that is new has the weight's. The folded ones are computed in
        float64 and rounded once, are tied to no others any more, and no gradient is kept.

    Raises
    ------
    ConfigError
        If a BatchNorm has no layer beside it that it can be folded into, keeps no running
        statistics, occurs twice, or is part of a module that is not a plain Sequential; the
        message says which and why.

    Examples
    --------
    >>> from npbn import ReLU
    >>> fold_batch_norm(Sequential(fc=Linear(3, 2), bn=BatchNorm1d(2), relu=ReLU()))
    Sequential(
      (fc): Linear(in_features=3, out_features=2, bias=True)
      (relu): ReLU()
    )
    """
    if not computes(net, Sequential):
        raise ConfigError(
            "fold_batch_norm: expected a Sequential that runs its layers one after another, got "
            f"{type(net).__name__}"
        )
    net = copy.deepcopy(net).eval()
    net.zero_grad()  # they are of another network
    steps = list(_steps(net, ""))
    places = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    # Of several in a row the first goes first into what is before, the last first into what is
    # after.
    for side, order in ((BEFORE, 1), (AFTER, -1)):
        for step in steps[::order]:
            if not isinstance(step.layer, BatchNorm):
                continue
            _check(step, places)
            neighbour = _neighbour(step, steps, side)
            if _obstacle(step.layer, neighbour, side, places) is None:
                _fold(step, neighbour, side)
                steps.remove(step)
                delattr(step.parent, step.name.rpartition(".")[2])
    for step in steps:
        if isinstance(step.layer, BatchNorm):
            reasons = (
                _obstacle(step.layer, _neighbour(step, steps, side), side, places)
                for side in (BEFORE, AFTER)
            )
            raise ConfigError(
                f"fold_batch_norm: {step.name} cannot be folded: {'; '.join(reasons)} "
                f"({_ways(step.layer)})"
            )
    return net


def _ways(norm: BatchNorm) -> str:
    if hasattr(norm, "comm"):
        return "a SyncBatchNorm is first turned back: npbn.distributed.revert_sync_batch_norm(net)"
    return "BatchNorm1d goes into Linear, BatchNorm2d into Conv2d"


class _Step(NamedTuple):
    """A layer, where it stands: its dotted name, and the Sequential that it is a part of."""

    name: str
    layer: Module
    parent: Sequential


def _steps(net: Sequential, path: str) -> Iterator[_Step]:
    """Yield the layers in the order in which they run."""
    for name, layer in net._submodules():
        if computes(layer, Sequential):
            yield from _steps(layer, f"{path}{name}.")
            continue
        holds = any(isinstance(module, BatchNorm) for module in layer.modules())
        if holds and not computes(layer, BatchNorm):
            raise ConfigError(
                f"fold_batch_norm: {path}{name} is a {type(layer).__name__}, which is or holds a "
                "BatchNorm and does not say what it does with it"
            )
        yield _Step(f"{path}{name}", layer, net)


def _check(step: _Step, places: Counter[int]) -> None:
    if step.layer.running_mean is None:
        raise ConfigError(
            f"fold_batch_norm: {step.name} keeps no running statistics "
            "(track_running_stats=False): it normalises by each batch in evaluation too"
        )
    if places[id(step.layer)] > 1:
        raise ConfigError(f"fold_batch_norm: {step.name} occurs twice")


def _neighbour(step: _Step, steps: list[_Step], side: str) -> Module | None:
    """Return the nearest layer on this side that does anything in evaluation."""
    i = steps.index(step)
    beside = steps[:i][::-1] if side == BEFORE else steps[i + 1 :]
    return next((s.layer for s in beside if not computes(s.layer, Identity, Dropout)), None)


def _obstacle(norm: BatchNorm, layer: Module | None, side: str, places: Counter[int]) -> str | None:
    """Return why a BatchNorm cannot be folded into this neighbour, or None if it can."""
    if layer is None:
        return f"{side} it stands nothing"
    stands = f"{side} it stands {repr(layer).splitlines()[0]}"
    # Of other ranks of input the two have other axes in mind.
    if not (isinstance(norm, BatchNorm1d) and computes(layer, Linear)) and not (
        isinstance(norm, BatchNorm2d) and computes(layer, Conv2d)
    ):
        return stands
    if places[id(layer)] > 1:
        return f"{stands}, which occurs twice"
    outputs, inputs = layer.weight.shape[:2]
    channels = outputs if side == BEFORE else inputs * getattr(layer, "groups", 1)
    if channels != norm.num_features:
        return f"{stands}, with {channels} channels there instead of {norm.num_features}"
    if side == AFTER and isinstance(layer, Conv2d) and _pads(layer):
        return f"{stands}, which pads with zeros, and those BatchNorm never saw"
    return None


def _pads(layer: Conv2d) -> bool:
    if layer.padding == "same":
        return layer.kernel_size != (1, 1)
    return layer.padding not in ("valid", (0, 0))


def _fold(step: _Step, layer: Linear | Conv2d, side: str) -> None:
    """Fold a BatchNorm into a layer that can take it, in place."""
    norm, weight = step.layer, layer.weight.data.astype(np.float64)
    bias = 0.0 if layer.bias is None else layer.bias.data
    scale, shift = _affine_map(norm)
    if side == BEFORE:
        bias = scale * bias + shift
        scale = scale[:, None]
    else:
        scale, shift = _by_output(scale, layer), _by_output(shift, layer)
        bias = bias + (weight.reshape(*shift.shape, -1).sum(axis=2) * shift).sum(axis=1)
    weight *= scale.reshape(*scale.shape, *(1,) * (weight.ndim - 2))
    dtype = layer.weight.dtype
    for exact in (weight, bias):
        if (np.isfinite(exact) & (np.abs(exact) > np.finfo(dtype).max)).any():
            raise ConfigError(
                f"fold_batch_norm: {step.name} cannot be folded: the result is out of the range "
                f"of {dtype}"
            )
    _set(layer, weight, bias)


def _affine_map(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift of evaluation, in float64."""
    scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    if norm.weight is not None:
        scale *= norm.weight.data
    shift = -scale * norm.running_mean
    return scale, shift if norm.bias is None else shift + norm.bias.data


def _by_output(values: np.ndarray, layer: Linear | Conv2d) -> np.ndarray:
    """Return the values of the channels that each output sees, those of its group."""
    outputs, inputs = layer.weight.shape[:2]
    by_group = values.reshape(-1, inputs)
    return np.repeat(by_group, outputs // len(by_group), axis=0)


def _set(layer: Linear | Conv2d, weight: np.ndarray, bias: np.ndarray) -> None:
    """Give a layer new values, rounded to its dtype."""
    frozen = layer.frozen
    layer.freeze(False)  # and freeze it again with a bias that is new, that both may be thawed
    dtype, order = layer.weight.dtype, "F" if isinstance(layer, Linear) else "C"
    old = layer.weight if layer.bias is None else layer.bias
    layer.bias = Parameter(bias.astype(dtype), old.requires_grad)
    layer.weight = Parameter(weight.astype(dtype, order=order), layer.weight.requires_grad)
    if frozen:
        layer.freeze()
