"""Spans of one axis, which average pooling sums, and the sums."""

from typing import Any, NamedTuple

import numpy as np

from npbn.engines.windows import Windows


class Spans(NamedTuple):
    """The spans of one axis that are averaged; they may overlap.

    Attributes
    ----------
    size : int
        Of the input's axis.
    lengths : ndarray, shape (count,), int
        The factor of each span in the divisor.
    steps : tuple of (slice, slice)
        Slices of the output, and of the inputs that are added to it: one input to each element, or
        all to a single one.
    """

    size: int
    lengths: np.ndarray
    steps: tuple[tuple[slice, slice], ...]


def sums(x: np.ndarray, axis: int, spans: Spans) -> np.ndarray:
    """Return the sum of each span of axis −2 or −1."""
    y = np.zeros(_resized(x, axis, len(spans.lengths)), x.dtype)
    for outputs, inputs in spans.steps:
        total, part = y[_along(axis, outputs)], x[_along(axis, inputs)]
        total += part if part.shape == total.shape else part.sum(axis=axis, keepdims=True)
    return y


def spread(grad: np.ndarray, axis: int, spans: Spans) -> np.ndarray:
    """Return the gradient of `sums`: for each input the sum of its outputs' gradients."""
    x = np.zeros(_resized(grad, axis, spans.size), grad.dtype)
    for outputs, inputs in spans.steps:
        x[_along(axis, inputs)] += grad[_along(axis, outputs)]
    return x


def window_spans(windows: Windows, count_include_pad: bool) -> Spans:
    """Return the spans of windows; their lengths count padding or not."""
    size, kernel, count = windows.size, windows.kernel, windows.count
    starts = np.arange(count) * windows.stride - windows.before
    ends = np.minimum(starts + kernel, size + windows.after)
    inside = np.maximum(starts, 0), np.minimum(ends, size)
    if not count_include_pad:
        starts, ends = inside
    # Few large windows are summed window by window, many small ones tap by tap.
    steps = _one_by_one(*inside) if count < kernel else tuple(map(windows.tap, range(kernel)))
    return Spans(size, ends - starts, steps)


def adaptive_spans(size: int, count: int) -> Spans:
    """Return `count` spans of about equal length over an axis of this size."""
    if count and size and size % count == 0:
        kernel = size // count
        return window_spans(Windows(size, kernel, kernel, 1, 0, 0, count), True)
    i = np.arange(count)
    starts, ends = i * size // max(count, 1), -(-(i + 1) * size // max(count, 1))
    return Spans(size, ends - starts, _one_by_one(starts, ends))


def _one_by_one(starts: np.ndarray, ends: np.ndarray) -> tuple[tuple[slice, slice], ...]:
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    return tuple((slice(o, o + 1), slice(*span)) for o, span in enumerate(spans))


def _along(axis: int, part: slice) -> tuple[Any, ...]:
    """Return the index of a part of axis −2 or −1."""
    return (..., part) if axis == -1 else (..., part, slice(None))


def _resized(x: np.ndarray, axis: int, size: int) -> tuple[int, ...]:
    """Return the shape of `x` with another size of axis −2 or −1."""
    return (*x.shape[:-1], size) if axis == -1 else (*x.shape[:-2], size, x.shape[-1])
