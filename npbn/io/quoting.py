"""Text of unknown origin, such as the keys of a file, in messages and on a terminal."""

import reprlib

# A list of twice a list of twice a list, and so on, is short in memory and endless as text.
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxother = 200
LONGEST = 80  # characters of one name in a message


def printable(text: str, longest: int | None = LONGEST) -> str:
    r"""Return a text with escapes for what a terminal would obey or cannot show, cut if long.

    Examples
    --------
    >>> print(printable("fc.weight"), printable("a\nb"))
    fc.weight a\nb
    """
    cut = text if longest is None else text[:longest]
    shown = cut if cut.isprintable() else "".join(map(_escaped, cut))
    return shown + "..." * (len(cut) < len(text))


def quoted(value: object, longest: int = LONGEST) -> str:
    """Return the repr of a value, printable and short."""
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
