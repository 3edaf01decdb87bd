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
        start = i * self.dilation - self.before  # of window 0
        first = max(-(start // self.stride), 0)
        last = min((self.size - 1 - start) // self.stride, self.count - 1)
        if last < first:
            return slice(0, 0), slice(0, 0)
        start += first * self.stride
        stop = start + (last - first) * self.stride + 1
        return slice(first, last + 1), slice(start, stop, self.stride)

    def part(self, some: slice) -> "Windows":
        """Return some of the windows, of the same input: padding before them may be negative."""
        before = self.before - some.start * self.stride
        return self._replace(before=before, count=some.stop - some.start)
