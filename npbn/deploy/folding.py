"""BatchNorm folded into the layers beside it: the same predictions from fewer layers.

In evaluation BatchNorm is an affine map of each channel, y = s · x + t, where s = weight /
sqrt(var + eps) and t = bias − s · mean, with the running statistics. It can be folded into a Linear
or Conv2d before it (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, arXiv:1712.05877, section 3.2)::

    s · (W x + b) + t = (s W) x + (s · b + t)

or into one after it::

    W (s · x + t) + b = (W s) x + (b + W t)

but not into a convolution after it that pads: the padding is zeros, which BatchNorm would not have
mapped to t.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

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
def fold_batch_norm(net: Module) -> Sequential:
    """Return a network with the same predictions, every BatchNorm folded into a layer beside it.

    A BatchNorm1d is folded into a Linear and a BatchNorm2d into a Conv2d: the one before it or, if
    that is not possible, the one after it. Only Identity and Dropout may be between them. Only
    chains can be folded: Sequentials that run their layers one after another, nested or not. A
    residual block, which adds its input, is not a chain.

    Parameters
    ----------
    net : Sequential
        Not changed. Its Linear layers are assumed to get inputs (N, features). For inputs
        (N, C, L), of which BatchNorm1d normalises C and Linear maps L, the result would be wrong,
        and the layers do not show which inputs they get.

    Returns
    -------
    Sequential
        In eval mode; it shares no memory with `net`. Layers keep their names, and parameters their
        ``requires_grad``; a new bias has that of the weight. Folded parameters are computed in
        float64 and rounded once. They are no longer tied to others, and gradients are not copied.

    Raises
    ------
    ConfigError
        If a BatchNorm has no layer beside it into which it can be folded, keeps no running
        statistics, occurs twice, or is part of a module that is not a plain Sequential. The
        message names it and the reason.

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
    net.zero_grad()
    steps = list(_steps(net, ""))
    places = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    # Of several BatchNorms in a row the first is folded first into the layer before them, and the
    # last first into the layer after them.
    for side, order in ((BEFORE, 1), (AFTER, -1)):
        for step in steps[::order]:
            if isinstance(step.layer, BatchNorm):
                target = _target(step, steps, side, places)
                if not isinstance(target, str):
                    _fold(step.name, step.layer, target, side)
                    steps.remove(step)
                    delattr(step.parent, step.name.rpartition(".")[2])
    for step in steps:
        if isinstance(step.layer, BatchNorm):
            reasons = (_target(step, steps, side, places) for side in (BEFORE, AFTER))
            raise ConfigError(
                f"fold_batch_norm: {step.name} cannot be folded: {'; '.join(map(str, reasons))} "
                f"({_advice(step.layer)})"
            )
    return net


def _advice(norm: BatchNorm) -> str:
    if hasattr(norm, "comm"):
        return "first convert SyncBatchNorm back: npbn.distributed.revert_sync_batch_norm(net)"
    return "BatchNorm1d is folded into Linear, BatchNorm2d into Conv2d"


class _Step(NamedTuple):
    """A layer, its dotted name, and the Sequential that it is part of."""

    name: str
    layer: Module
    parent: Sequential


def _steps(net: Sequential, path: str) -> Iterator[_Step]:
    """Yield the layers in the order in which they run."""
    for name, layer in net._submodules():
        if computes(layer, Sequential):
            yield from _steps(layer, f"{path}{name}.")
            continue
        contains = any(isinstance(module, BatchNorm) for module in layer.modules())
        if contains and not computes(layer, BatchNorm):
            raise ConfigError(
                f"fold_batch_norm: {path}{name} is a {type(layer).__name__}, which is or contains "
                "a BatchNorm and may use it in another way"
            )
        yield _Step(f"{path}{name}", layer, net)


def _target(
    step: _Step, steps: list[_Step], side: str, places: Counter[int]
) -> Linear | Conv2d | str:
    """Return the layer on this side into which a BatchNorm can be folded, or why there is none."""
    if places[id(step.layer)] > 1:
        raise ConfigError(f"fold_batch_norm: {step.name} occurs twice")
    i = steps.index(step)
    beside = steps[:i][::-1] if side == BEFORE else steps[i + 1 :]
    layer = next((s.layer for s in beside if not computes(s.layer, Identity, Dropout)), None)
    if layer is None:
        return f"there is no layer {side} it"
    reason = f"the layer {side} it is {repr(layer).splitlines()[0]}"
    # For inputs of other ranks the two would have different axes of channels.
    into_linear = isinstance(step.layer, BatchNorm1d) and computes(layer, Linear)
    into_conv = isinstance(step.layer, BatchNorm2d) and computes(layer, Conv2d)
    if not isinstance(layer, Linear | Conv2d) or not (into_linear or into_conv):
        return reason
    if places[id(layer)] > 1:
        return f"{reason}, which occurs twice"
    outputs, inputs = layer.weight.shape[:2]
    channels = outputs if side == BEFORE else inputs * getattr(layer, "groups", 1)
    expected = getattr(step.layer, "num_features", None)
    if channels != expected:
        return f"{reason}, with {channels} channels there instead of {expected}"
    if side == AFTER and isinstance(layer, Conv2d) and _pads(layer):
        return f"{reason}, which pads with zeros that BatchNorm does not shift"
    return layer


def _pads(layer: Conv2d) -> bool:
    if layer.padding == "same":
        return layer.kernel_size != (1, 1)
    return layer.padding not in ("valid", (0, 0))


def _fold(name: str, norm: BatchNorm, layer: Linear | Conv2d, side: str) -> None:
    """Fold a BatchNorm into a layer, in place."""
    weight = layer.weight.data.astype(np.float64)
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.data.astype(np.float64)
    scale, shift = _affine_map(name, norm)
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
                f"fold_batch_norm: {name} cannot be folded: the result exceeds the range of {dtype}"
            )
    _set(layer, weight, bias)


def _affine_map(name: str, norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift of evaluation, in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigError(
            f"fold_batch_norm: {name} keeps no running statistics (track_running_stats=False): "
            "it normalises by each batch in evaluation too"
        )
    scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    if norm.weight is not None:
        scale *= norm.weight.data
    shift = -scale * norm.running_mean
    return scale, shift if norm.bias is None else shift + norm.bias.data


def _by_output(values: np.ndarray, layer: Linear | Conv2d) -> np.ndarray:
    """Return, for each output, the values of the channels of its group."""
    outputs, inputs = layer.weight.shape[:2]
    by_group = values.reshape(-1, inputs)
    return np.repeat(by_group, outputs // len(by_group), axis=0)


def _set(layer: Linear | Conv2d, weight: np.ndarray, bias: np.ndarray) -> None:
    """Replace the parameters of a layer by these values, rounded to its dtype."""
    frozen = layer.frozen
    layer.freeze(False)  # frozen again below, with the new bias, so that both can be thawed
    dtype = layer.weight.dtype
    old = layer.weight if layer.bias is None else layer.bias
    layer.bias = Parameter(bias.astype(dtype), old.requires_grad)
    order: Literal["C", "F"] = "F" if isinstance(layer, Linear) else "C"
    layer.weight = Parameter(weight.astype(dtype, order=order), layer.weight.requires_grad)
    if frozen:
        layer.freeze()
