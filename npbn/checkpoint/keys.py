"""Keys from a file, which can be chosen so that each takes as long to store as all before it.

Python's hash of a string is not to be foreseen, that of a number is the number itself, modulo
2**61 - 1: a few hundred kilobytes of numbers, chosen to fill one place of a dictionary's table,
take minutes.
"""

from typing import Any

from npbn.errors import CheckpointError
from npbn.io.quoting import quoted

KINDS = (str, int, float, bool, type(None))
MOST_NUMBERS = 1 << 16
LARGEST = 1 << 60  # beyond, integers have the hashes of others; below, they are their hashes
MOST_LARGE = 1000


class KeyGuard:
    """Counts the keys of one file's dictionaries, and the elements of its sets."""

    def __init__(self, most_numbers: int = MOST_NUMBERS, most_large: int = MOST_LARGE) -> None:
        self.numbers, self.most_numbers = 0, most_numbers
        self.large, self.most_large = 0, most_large

    def check(self, key: Any) -> None:
        """Raise CheckpointError on a key that no state has, or on too many that are numbers."""
        if type(key) is str:
            return
        if type(key) not in KINDS:
            raise CheckpointError(
                f"a dictionary's key is a {type(key).__name__}, expected a string or a number"
            )
        self.numbers += 1
        if type(key) is int and not -LARGEST < key < LARGEST:
            self.large += 1
            if self.large > self.most_large:
                few = f"; over {self.most_large} keys are like it" * (self.most_large > 0)
                raise CheckpointError(f"a dictionary's key is {quoted(key)}, beyond 60 bits{few}")
        if self.numbers > self.most_numbers:
            raise CheckpointError(f"over {self.most_numbers} keys are numbers")
