"""A reader of pickles that runs nothing: the part of the language that a state needs, no more.

A pickle is a program for a stack machine, and Python's own machine lets it call whatever can be
imported. This one imports nothing and calls nothing but the functions it was handed, under the
names they have in the file. It knows the operations that ``torch.save`` writes for plain data and
tensors, protocols 2 to 5, and refuses all others. Source of the language: the documentation in
the standard library's ``pickletools``.

A hostile file is kept from taking time or memory as well as from running code:

- a number that the file gives reserves nothing: lengths are compared with what is left of it;
- operations take constant time, or time in proportion to what they consume. Keys of
  dictionaries and elements of sets are therefore strings, numbers or None (a tuple that holds
  itself many times over takes forever to hash), no key comes twice, and numbers are few, see
  ``keys``;
- the memo is a list that grows by one, not a table with the file's choice of indices;
- what the pickle makes may hold itself, or itself many times over: ``torch_file`` checks that.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from npbn.checkpoint.keys import MOST_NUMBERS, KeyGuard
from npbn.errors import CheckpointError

_MOST_NUMBER_KEYS = MOST_NUMBERS

Builders = dict[int, tuple[Any, Callable[[Any], None]]]


class Label(str):
    """A constant that a pickle names, such as a dtype: a string that can be told from strings."""

    __slots__ = ()


class Name:
    """A global that a pickle names, as it lies on the stack: not yet anything."""

    __slots__ = ("call", "label", "value")

    def __init__(self, label: str, call: Callable[[tuple], Any] | None = None, value: Any = None):
        self.label = label
        self.call = call
        self.value = value


def load_pickle(
    data: bytes,
    names: Mapping[tuple[str, str], Name | Label],
    persistent_load: Callable[[Any], Any],
    explain: Callable[[str, str], str] = lambda module, name: "",
    builders: Builders | None = None,
) -> Any:
    """Return what a pickle describes, or raise CheckpointError.

    Parameters
    ----------
    data : bytes
        The pickle.
    names : mapping of (module, name) to Name or Label
        The globals it may name. ``Name.call``, where there is one, is given the tuple of
        arguments when the pickle calls the name, and checks them.
    persistent_load : callable
        Given each persistent id, which may be anything: it checks that too.
    explain : callable, optional
        Given the module and the name of a global that is refused; what to do instead.
    builders : dict, optional
        By the ``id`` of an object that a call has returned: the object, and what is called once,
        with the state that the pickle sets of it.

    Returns
    -------
    object
        Dictionaries, lists, tuples, sets, strings, bytes, numbers, booleans, None and whatever
        `names` and `persistent_load` return; names themselves too, wherever the pickle leaves
        them.
    """
    value, end = load_first(data, names, persistent_load, explain, builders)
    if end != len(data):
        raise CheckpointError(f"its pickle is damaged at byte {end}: it ends too early or too late")
    return value


def load_first(
    data: bytes,
    names: Mapping[tuple[str, str], Name | Label],
    persistent_load: Callable[[Any], Any],
    explain: Callable[[str, str], str] = lambda module, name: "",
    builders: Builders | None = None,
) -> tuple[Any, int]:
    """Return what the pickle at the start of `data` describes, and where it ends."""
    machine = _Machine(data, names, persistent_load, explain, {} if builders is None else builders)
    return machine.run(), machine.position


def short(value: object) -> str:
    """Return a description of a value from a file, of a length that fits into a message."""
    if type(value) is Label:
        return str(value)
    if type(value) is str or type(value) is bytes:
        return repr(value[:80]) + "..." * (len(value) > 80)
    if type(value) is int or type(value) is float:
        return f"{value!r:.80}" + "..." * (len(repr(value)) > 80)
    return value.label if isinstance(value, Name) else type(value).__name__


class _Machine:
    def __init__(
        self,
        data: bytes,
        names: Mapping[tuple[str, str], Name | Label],
        persistent_load: Callable[[Any], Any],
        explain: Callable[[str, str], str],
        builders: Builders,
    ) -> None:
        self.data = data
        self.names = names
        self.load_persistent = persistent_load
        self.explain = explain
        self.builders = builders
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.keys = KeyGuard(_MOST_NUMBER_KEYS, 0)

    def run(self) -> Any:
        if self.data[:1] != b"\x80" or self.data[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
            raise CheckpointError(
                f"its pickle begins with {self.data[:2].hex(' ') or 'nothing'}, expected 80 and a "
                "protocol from 2 to 5"
            )
        self.position = 2
        while (code := self.take(1)) != b".":
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise CheckpointError(f"its pickle uses {_name(code)}, which a state does not need")
            operation(self)
        if len(self.stack) != 1 or self.marks:
            raise self.damaged("it ends too early or too late")
        return self.stack[0]

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"its pickle is damaged at byte {self.position}: {what}")

    # What the operations are made of

    def take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if len(taken) != size:
            raise self.damaged(f"it ends where {size} bytes more should follow")
        self.position += size
        return taken

    def number(self, format: str) -> Any:
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8", "surrogatepass")  # as pickle writes it
        except UnicodeDecodeError:
            raise self.damaged("a string is not UTF-8") from None

    def line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise self.damaged("it ends within a name")
        text = self.text(end - self.position)
        self.position = end + 1
        return text

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.damaged("its stack is empty")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple:
        return tuple([self.pop() for _ in range(count)][::-1])

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise self.damaged("its stack holds no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def target(self, kind: type) -> Any:
        """Return the container on top of the stack, which an operation is about to fill."""
        value = self.pop()
        if type(value) is not kind:
            raise self.damaged(f"expected a {kind.__name__} to fill, got {short(value)}")
        self.push(value)
        return value

    # The operations

    def skip_frame(self) -> None:
        if self.number("<Q") > len(self.data) - self.position:
            raise self.damaged("a frame reaches beyond the end")

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def integer(self) -> None:
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def append(self) -> None:
        value = self.pop()
        self.target(list).append(value)

    def appends(self) -> None:
        values = self.pop_mark()
        self.target(list).extend(values)

    def set_items(self, items: list[Any] | tuple) -> None:
        target = self.target(dict)
        if len(items) % 2:
            raise self.damaged("a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.keys.check(key)
            if key in target:
                raise CheckpointError(f"a dictionary has the key {short(key)} twice")
            target[key] = value

    def add_items(self) -> None:
        values = self.pop_mark()
        target = self.target(set)
        for value in values:
            self.keys.check(value)
            target.add(value)

    def memoize(self, index: int | None = None) -> None:
        if index is not None and index != len(self.memo):
            raise self.damaged(f"memo entry {index} comes where {len(self.memo)} should")
        value = self.pop()
        self.push(value)
        self.memo.append(value)

    def recall(self, index: int) -> None:
        if index >= len(self.memo):
            raise self.damaged(f"memo entry {index} is used before it is made")
        self.push(self.memo[index])

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise self.damaged(f"a global is named by {short(module)} and {short(name)}")
        found = self.names.get((module, name))
        if found is None:
            label = f"{module[:80]}.{name[:80]}"
            raise CheckpointError(
                f"it asks for {label!r}, which a state does not need, and nothing was run"
                + self.explain(module, name)
            )
        self.push(found)

    def reduce(self) -> None:
        function, arguments = self.pop_many(2)
        if not isinstance(function, Name) or function.call is None:
            raise CheckpointError(f"its pickle calls {short(function)}, which is no function")
        if type(arguments) is not tuple:
            raise self.damaged(f"{function.label} is called with {short(arguments)}, not a tuple")
        self.push(function.call(arguments))

    def build(self) -> None:
        """Give a state to what waits for one; else drop the ``_metadata`` of a state_dict."""
        state = self.pop()
        target = self.pop()
        self.push(target)
        if id(target) in self.builders:
            _, builder = self.builders.pop(id(target))
            builder(state)
            return
        self.target(dict)
        if type(state) is not dict or any(key != "_metadata" for key in state):
            keys = ", ".join(short(key) for key in list(state)[:3]) if type(state) is dict else ""
            raise CheckpointError(
                f"its pickle sets attributes of a dictionary ({keys or short(state)}), "
                "expected '_metadata' alone"
            )


def _name(code: bytes) -> str:
    from pickletools import code2op  # for this message alone

    operation = code2op.get(code.decode("latin-1"))
    return f"the operation {operation.name}" if operation else f"byte {code.hex()}, no operation"


_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x95": _Machine.skip_frame,
    b"(": _Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": _Machine.integer,
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8c": lambda m: m.push(m.text(m.number("<B"))),
    b"X": lambda m: m.push(m.text(m.number("<I"))),
    b"\x8d": lambda m: m.push(m.text(m.number("<Q"))),
    b"U": lambda m: m.push(m.text(m.number("<B"))),  # a string of Python 2
    b"T": lambda m: m.push(m.text(m.number("<I"))),
    b"C": lambda m: m.push(m.take(m.number("<B"))),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"\x8e": lambda m: m.push(m.take(m.number("<Q"))),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push(m.pop_many(1)),
    b"\x86": lambda m: m.push(m.pop_many(2)),
    b"\x87": lambda m: m.push(m.pop_many(3)),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"]": lambda m: m.push([]),
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items(m.pop_many(2)),
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"q": lambda m: m.memoize(m.number("<B")),
    b"r": lambda m: m.memoize(m.number("<I")),
    b"\x94": _Machine.memoize,
    b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": lambda m: m.find(*m.pop_many(2)),
    b"R": _Machine.reduce,
    b"\x81": _Machine.reduce,  # a new object of a class is what the class's name gives
    b"\x8f": lambda m: m.push(set()),
    b"\x90": _Machine.add_items,
    b"b": _Machine.build,
    b"Q": lambda m: m.push(m.load_persistent(m.pop())),
}
