"""Keys from a file, which can be chosen so that each takes as long to store as all before it.

Python's hash of a string is not to be foreseen, that of a number is the number itself, modulo
2**61 - 1: a few hundred kilobytes of numbers, chosen to fill one place of a dictionary's table,
take minutes.
"""

from typing import Any

from npbn.errors import CheckpointError
from npbn.quoting import quoted

KINDS = (str, int, float, bool, type(None))
MOST_NUMBERS = 1 << 16
LARGEST = 1 << 60  # beyond, integers have the hashes of others; below, they are their hashes
MOST_LARGE = 1000


class KeyGuard:
    """Counts the keys of one file's dictionaries, and the elements of its sets."""

    def __init__(self) -> None:
        self.numbers = self.large = 0

    def check(self, key: Any, where: str = "a dictionary") -> None:
        """Raise CheckpointError on a key that no state has, or on too many that are numbers."""
        if type(key) is str:
            return
        if type(key) not in KINDS:
            raise CheckpointError(
                f"{where}: expected keys of str or numbers, got {quoted(key)} "
                f"of {type(key).__name__}"
            )
        self.numbers += 1
        self.large += type(key) is int and not -LARGEST < key < LARGEST
        if self.numbers > MOST_NUMBERS:
            raise CheckpointError(f"over {MOST_NUMBERS} keys are numbers")
        if self.large > MOST_LARGE:
            raise CheckpointError(f"over {MOST_LARGE} keys are integers beyond 60 bits")
