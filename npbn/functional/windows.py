"""The number of windows that fit into an axis, and arguments for two axes."""

from npbn.arguments import is_integer
from npbn.engines.windows import Windows
from npbn.errors import ShapeError


def windows(
    who: str,
    size: int,
    kernel: int,
    stride: int,
    dilation: int,
    before: int,
    after: int,
    ceil_mode: bool = False,
) -> Windows:
    """Return the windows that fit into an axis; arguments other than `size` are not checked.

    Parameters
    ----------
    who : str
        The function or layer, for the message.
    size, kernel, stride, dilation, before, after : int
        As in :class:`npbn.engines.windows.Windows`.
    ceil_mode : bool
        Whether a last window may begin inside the input or the padding before it and end beyond
        the padding after it.

    Returns
    -------
    Windows

    Raises
    ------
    ShapeError
        If none fits.

    Examples
    --------
    >>> windows("pool", 5, kernel=3, stride=2, dilation=1, before=1, after=1).count
    3
    """
    room = size + before + after - dilation * (kernel - 1) - 1
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1  # it would begin in the padding after the input
    if count < 1:
        raise ShapeError(
            f"{who}: expected an input that a kernel of extent {dilation * (kernel - 1) + 1} fits "
            f"into, got {size} with padding {before} and {after}"
        )
    return Windows(size, kernel, stride, dilation, before, after, count)


def pair(who: str, name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    """Return an argument for height and width as two integers.

    Parameters
    ----------
    who, name : str
        The function or layer and its argument, for the message.
    value : int or tuple of two
        For both, or for each.
    least : int

    Returns
    -------
    tuple of two ints

    Raises
    ------
    ValueError
        If `value` is neither, or below `least`.
    """
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(is_integer(v) and v >= least for v in both):
        raise ValueError(
            f"{who}: expected {name} to be an int or two, of at least {least}, got {value!r}"
        )
    return int(both[0]), int(both[1])
