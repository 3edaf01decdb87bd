"""Text of unknown origin, such as the keys of a file, in messages and on a terminal."""

import reprlib

# A list that contains a list twice, which contains a list twice, ..., is short in memory only.
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxother = 200
LONGEST = 80  # characters of a name in a message


def printable(text: str, longest: int | None = LONGEST) -> str:
    r"""Return a text that is safe to print: control characters escaped, and cut if it is long.

    Parameters
    ----------
    text : str
    longest : int or None
        Characters of the text that are kept; None keeps all.

    Returns
    -------
    str
        With ``...`` at the end if it was cut.

    Examples
    --------
    >>> print(printable("fc.weight"), printable("a\nb"))
    fc.weight a\nb
    """
    cut = text if longest is None else text[:longest]
    shown = cut if cut.isprintable() else "".join(map(_escaped, cut))
    return shown + "..." * (len(cut) < len(text))


def quoted(value: object, longest: int = LONGEST) -> str:
    """Return the repr of a value, safe to print and short.

    Parameters
    ----------
    value : object
    longest : int
        Characters that are kept.

    Returns
    -------
    str
    """
    if isinstance(value, str | bytes):
        shown = repr(value[:longest])
        return printable(shown, None) + "..." * (len(value) > longest)
    try:
        return printable(_SHORT.repr(value), longest)
    except ValueError:  # an integer of 5,000 digits
        return f"a {type(value).__name__}"


def _escaped(character: str) -> str:
    plain = character.isprintable()
    return character if plain else character.encode("unicode_escape", "surrogatepass").decode()
