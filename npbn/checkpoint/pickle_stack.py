"""The data, the stack and the marks of a pickle: every access is checked."""

import struct
from typing import Any

from npbn.checkpoint.torch_names import short
from npbn.errors import CheckpointError


class PickleStack:
    """Reads a pickle from its start, and holds the values that its operations work on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []

    def damaged(self, what: str) -> CheckpointError:
        """Return an error that names the position."""
        return CheckpointError(f"its pickle is damaged at byte {self.position}: {what}")

    # -- reading ----------------------------------------------------------------------------

    def take(self, size: int) -> bytes:
        """Read so many bytes."""
        taken = self.data[self.position : self.position + size]
        if len(taken) != size:
            raise self.damaged(f"it ends where {size} bytes more should follow")
        self.position += size
        return taken

    def number(self, format: str) -> Any:
        """Read a number of a format of :mod:`struct`."""
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def text(self, length: int) -> str:
        """Read a string of so many bytes."""
        try:
            return self.take(length).decode("utf-8", "surrogatepass")  # as pickle writes it
        except UnicodeDecodeError:
            raise self.damaged("a string is not UTF-8") from None

    def line(self) -> str:
        """Read a string up to the end of the line."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise self.damaged("it ends within a name")
        text = self.text(end - self.position)
        self.position = end + 1
        return text

    # -- the stack --------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the value on top, above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.damaged("its stack is empty")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        """Take several values, the topmost last."""
        return tuple([self.pop() for _ in range(count)][::-1])

    def pop_mark(self) -> list[Any]:
        """Take the last mark and the values above it."""
        if not self.marks:
            raise self.damaged("its stack holds no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def target(self, kind: type) -> Any:
        """Return the container on top of the stack, to which an operation adds values."""
        value = self.pop()
        if type(value) is not kind:
            raise self.damaged(f"expected a {kind.__name__} on the stack, got {short(value)}")
        self.push(value)
        return value
