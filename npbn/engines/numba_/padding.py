"""Positions of the windows along an axis."""

from npbn.engines import windows
from npbn.engines.numba_.compiling import compiled

tap = compiled(windows.inside)


@compiled
def seen(axis):
    """Return the number of positions from the first tap of the first window to the last tap."""
    return (axis.count - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1


@compiled
def inside(axis):
    """Return the offset of the input in these positions, its first index, and its length."""
    start, skipped = max(axis.before, 0), max(-axis.before, 0)
    return start, skipped, max(min(seen(axis) - start, axis.size - skipped), 0)
