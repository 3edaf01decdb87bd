"""Limits for dictionary keys from a file, against keys that are chosen to have equal hashes.

Python's hash of a string depends on a random number, that of a number is the number modulo
2**61 - 1. A dictionary of a few hundred kilobytes of numbers with equal hashes takes minutes, as
storing each compares it with all before it.
"""

from typing import Any

from npbn.errors import CheckpointError
from npbn.io.quoting import quoted

KINDS = (str, int, float, bool, type(None))
MOST_NUMBERS = 1 << 16
LARGEST = 1 << 60  # integers below this differ in their hashes
MOST_LARGE = 1000


class KeyGuard:
    """Checks and counts the keys of one file's dictionaries, and the elements of its sets."""

    def __init__(self, most_numbers: int = MOST_NUMBERS, most_large: int = MOST_LARGE) -> None:
        self.numbers, self.most_numbers = 0, most_numbers
        self.large, self.most_large = 0, most_large

    def check(self, key: Any) -> None:
        """Raise CheckpointError on a key of another type, or on too many numbers."""
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
                few = f"; there are over {self.most_large} such keys" * (self.most_large > 0)
                raise CheckpointError(f"a dictionary's key is {quoted(key)}, beyond 60 bits{few}")
        if self.numbers > self.most_numbers:
            raise CheckpointError(f"over {self.most_numbers} keys are numbers")
