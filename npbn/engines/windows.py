"""Windows that slide over one axis of an image, and where each of their taps lies.

A window has one tap for each cell of the kernel. Along one axis, tap i of window o lies at the
input's position ``o · stride + i · dilation − before``, and outside the input where that is
padding.
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
        Padding at either end.
    count : int
        How many windows there are: the output's size.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    count: int

    @property
    def extent(self) -> int:
        """Positions from a window's first tap to its last, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    def tap(self, i: int) -> tuple[slice, slice]:
        """Return which windows have tap i inside the input, and where those taps lie."""
        first, stop, start = inside(self, i)
        return slice(first, stop), slice(start, start + (stop - first) * self.stride, self.stride)

    def part(self, some: slice) -> "Windows":
        """Return some of the windows, of the same input: padding before them may be negative."""
        before = self.before - some.start * self.stride
        return self._replace(before=before, count=some.stop - some.start)


def inside(axis: Windows, i: int) -> tuple[int, int, int]:
    """Return the first window with tap i inside the input, one past the last, and that tap."""
    start = i * axis.dilation - axis.before  # of window 0
    first = max(-(start // axis.stride), 0)
    stop = min((axis.size - 1 - start) // axis.stride + 1, axis.count)
    if stop <= first:
        return 0, 0, 0
    return first, stop, start + first * axis.stride
