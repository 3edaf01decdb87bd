"""A reader of pickles that executes nothing: the part of the language that a state needs.

A pickle is a program for a stack machine. Python's own machine, ``pickle.Unpickler``, can be kept
from importing and calling by overriding ``find_class`` and ``persistent_load``, but not from taking
memory and time. Measured with both overridden (Python 3.11): a pickle of 9 bytes, which stores
None in the memo under the index 2**26, takes 1 GB. One of 129 bytes, with a dictionary whose key is
24 nested tuples, each with the next one twice, takes 2 s, and twice as long for every 5 bytes more.
Therefore this machine, in which

- a number in the file reserves no memory: lengths are compared with the rest of the file, and the
  memo is a list that grows by one;
- an operation takes constant time, or time in proportion to what it consumes. Keys of dictionaries
  and elements of sets are strings, numbers or None, as hashing a tuple may take exponential time;
  no key occurs twice, and the number of numbers is limited, see ``keys``;
- only the operations that ``torch.save`` writes for plain data and tensors exist, of protocols 2 to
  5, and only the functions in a table are called.

The result may contain itself, or the same part many times: ``torch_file`` checks that. Source of
the language: the documentation in the standard library's ``pickletools``.
"""

from collections.abc import Callable
from typing import Any

from npbn.checkpoint.keys import MOST_NUMBERS, KeyGuard
from npbn.checkpoint.pickle_stack import PickleStack
from npbn.checkpoint.torch_names import Builders, Name, Names, short
from npbn.errors import CheckpointError

_MOST_NUMBER_KEYS = MOST_NUMBERS


def load_pickle(
    data: bytes,
    names: Names,
    persistent_load: Callable[[Any], Any],
    explain: Callable[[str, str], str] = lambda module, name: "",
    builders: Builders | None = None,
) -> Any:
    """Return the object that a pickle describes.

    Parameters
    ----------
    data : bytes
        The pickle.
    names : mapping of (module, name) to Name or Label
        The globals that it may name.
    persistent_load : callable
        Called with each persistent id, which may be anything, and checks it.
    explain : callable, optional
        Called with the module and the name of a global that is refused; returns advice.
    builders : dict, optional
        Objects on which the pickle may set a state.

    Returns
    -------
    object
        Dictionaries, lists, tuples, sets, strings, bytes, numbers, booleans, None and whatever
        `names` and `persistent_load` return; also a Name, where the pickle does not call it.

    Raises
    ------
    CheckpointError
        If the pickle is damaged, or uses what is not allowed.
    """
    value, end = load_first(data, names, persistent_load, explain, builders)
    if end != len(data):
        raise CheckpointError(f"its pickle is damaged at byte {end}: it ends too early or too late")
    return value


def load_first(
    data: bytes,
    names: Names,
    persistent_load: Callable[[Any], Any],
    explain: Callable[[str, str], str] = lambda module, name: "",
    builders: Builders | None = None,
) -> tuple[Any, int]:
    """Return the object that the pickle at the start of `data` describes, and where it ends."""
    machine = _Machine(data, names, persistent_load, explain, {} if builders is None else builders)
    return machine.run(), machine.position


class _Machine(PickleStack):
    def __init__(
        self,
        data: bytes,
        names: Names,
        persistent_load: Callable[[Any], Any],
        explain: Callable[[str, str], str],
        builders: Builders,
    ) -> None:
        super().__init__(data)
        self.names = names
        self.load_persistent = persistent_load
        self.explain = explain
        self.builders = builders
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

    def set_items(self, items: list[Any] | tuple[Any, ...]) -> None:
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
            raise self.damaged(f"expected memo entry {len(self.memo)}, got {index}")
        value = self.pop()
        self.push(value)
        self.memo.append(value)

    def recall(self, index: int) -> None:
        if index >= len(self.memo):
            raise self.damaged(f"memo entry {index} is used before it is stored")
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
        """Set the state of an object in `builders`; drop the ``_metadata`` of a state_dict."""
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
    import pickletools  # only for this message

    operations: dict[str, Any] = vars(pickletools)["code2op"]
    operation = operations.get(code.decode("latin-1"))
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
    b"\x81": _Machine.reduce,  # making an object of a class is calling its name
    b"\x8f": lambda m: m.push(set()),
    b"\x90": _Machine.add_items,
    b"b": _Machine.build,
    b"Q": lambda m: m.push(m.load_persistent(m.pop())),
}
