"""Where the windows along an axis lie."""

from npbn.engines import windows
from npbn.engines.numba_.compiling import compiled

tap = compiled(windows.inside)


@compiled
def seen(axis):
    """Return how many positions the windows see, from the first one's first tap on."""
    return (axis.count - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1


@compiled
def inside(axis):
    """Return where the input begins in what is seen, from where on it is, and how much of it."""
    start, skipped = max(axis.before, 0), max(-axis.before, 0)
    return start, skipped, max(min(seen(axis) - start, axis.size - skipped), 0)
