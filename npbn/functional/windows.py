"""How many windows fit into an axis, and arguments for two axes."""

from numbers import Integral

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
    """Return the windows that fit into an axis; all but `size` are taken as checked.

    Parameters
    ----------
    who : str
        The function or layer, for the message.
    ceil_mode : bool
        Whether a last window may begin inside the input or its left padding and end beyond.

    Raises
    ------
    ShapeError
        If not even one fits.

    Examples
    --------
    >>> windows("pool", 5, kernel=3, stride=2, dilation=1, before=1, after=1).count
    3
    """
    room = size + before + after - dilation * (kernel - 1) - 1
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1  # it would begin in the padding behind
    if count < 1:
        raise ShapeError(
            f"{who}: expected an input that a kernel of extent {dilation * (kernel - 1) + 1} fits "
            f"into, got {size} with padding {before} and {after}"
        )
    return Windows(size, kernel, stride, dilation, before, after, count)


def pair(who: str, name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    """Return an argument for height and width, given for both or for each.

    Raises
    ------
    ValueError
        If it is neither, or below `least`.
    """
    both = (value, value) if isinstance(value, Integral) else value
    if not (
        isinstance(both, tuple | list)
        and len(both) == 2
        and all(isinstance(v, Integral) and v >= least for v in both)
    ):
        raise ValueError(
            f"{who}: expected {name} to be an int or two, of at least {least}, got {value!r}"
        )
    return int(both[0]), int(both[1])
