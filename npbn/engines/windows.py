"""Windows that slide over one axis of an image, and the positions of their taps.

A window has one tap for each element of the kernel. Along one axis, tap i of window o is at the
input's position ``o · stride + i · dilation − before``; in the padding, that is outside the input.
"""

from typing import NamedTuple


class Windows(NamedTuple):
    """Windows along one axis.

    Attributes
    ----------
    size : int
        Of the input's axis, without padding.
    kernel, stride, dilation : int
    before, after : int
        Padding at each end.
    count : int
        The number of windows, which is the output's size.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    count: int  # type: ignore[assignment]  # in place of tuple.count

    @property
    def extent(self) -> int:
        """Number of positions from a window's first tap to its last, inclusive."""
        return self.dilation * (self.kernel - 1) + 1

    def tap(self, i: int) -> tuple[slice, slice]:
        """Return the windows with tap i inside the input, and the positions of those taps."""
        first, stop, start = inside(self, i)
        return slice(first, stop), slice(start, start + (stop - first) * self.stride, self.stride)

    def part(self, chosen: slice) -> "Windows":
        """Return a range of the windows, over the same input: `before` may become negative."""
        before = self.before - chosen.start * self.stride
        return self._replace(before=before, count=chosen.stop - chosen.start)


def inside(axis: Windows, i: int) -> tuple[int, int, int]:
    """Return the first window with tap i inside the input, one past the last, and that tap."""
    start = i * axis.dilation - axis.before  # of window 0
    first = max(-(start // axis.stride), 0)
    stop = min((axis.size - 1 - start) // axis.stride + 1, axis.count)
    if stop <= first:
        return 0, 0, 0
    return first, stop, start + first * axis.stride
