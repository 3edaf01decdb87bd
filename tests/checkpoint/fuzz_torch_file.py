"""Files of torch made by hand, and a program that fuzzes their reader with atheris.

    python -m checkpoint.fuzz_torch_file [options of libFuzzer] [folder of inputs]

run where ``tests`` is on the path. Each input is read twice, as a file and as the pickle within a
sound file; anything but a result or a CheckpointError ends the program.
"""

import contextlib
import io
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

from npbn.checkpoint.torch_file import load_torch
from npbn.errors import CheckpointError

FLOATS = struct.pack("<4f", 1, 2, 3, 4)


def archive(pickle, storages=None, folder="archive", order=b"little", compression=0):
    """Return a file as torch.save writes it, with two storages unless they are given."""
    storages = {"0": FLOATS, "1": bytes(16)} if storages is None else storages
    records = {
        "data.pkl": pickle,
        "version": b"3\n",
        **{f"data/{key}": value for key, value in storages.items()},
    }
    if order is not None:
        records["byteorder"] = order
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        for name, content in records.items():
            writer.writestr(zipfile.ZipInfo(f"{folder}/{name}"), content, compression)
    return file.getvalue()


# The language of pickles


def program(*operations):
    return b"\x80\x02" + b"".join(operations) + b"."


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value):
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def group(*parts):
    return b"(" + b"".join(parts) + b"t"


def integers(*values):
    return group(*map(integer, values))


def name(module, name):
    return f"c{module}\n{name}\n".encode()


def call(function, *arguments):
    return function + group(*arguments) + b"R"


def storage(kind="FloatStorage", key="0", number=4, device="cpu", tag="storage", module="torch"):
    parts = [text(tag), name(module, kind), text(key), text(device), integer(number)]
    return group(*parts) + b"Q"


def tensor(of=None, offset=0, size=(4,), stride=(1,), grad=b"\x89", hooks=b"}", more=(), version=2):
    """Return the call that makes a tensor; every argument may be pickle code."""
    parts = [of or storage(), offset, size, stride, grad, hooks, *more]
    for i, part in enumerate(parts):
        if not isinstance(part, bytes):
            parts[i] = integers(*part) if isinstance(part, tuple) else integer(part)
    return call(name("torch._utils", f"_rebuild_tensor_v{version}"), *parts)


def state(*items):
    """Return the program of a dictionary of these tensors, or other values."""
    keyed = (text(str(i)) + item for i, item in enumerate(items))
    return program(b"}(", *keyed, b"u")


RAW = storage("UntypedStorage", module="torch.storage", number=16)
SEEDS = [
    state(tensor(), tensor(storage(number=4), 1, (2,), (2,)), tensor(size=(), stride=())),
    state(tensor(RAW, version=3, more=[name("torch", "float32")])),
    state(call(name("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", b"}")),
    state(tensor(storage("BFloat16Storage", number=8), size=(8,)), b"]q\0(K\1N\x88e", b"h\0"),
    state(call(name("collections", "OrderedDict")) + b"}" + text("_metadata") + b"}sb"),
    state(
        call(name("torch", "Size"), integers(1, 2)), b"G?\xf0\0\0\0\0\0\0", b"C\1a", b"J\1\0\0\0"
    ),
]


def load_or_refuse(path, content):
    """Read the content; whatever is no result and no CheckpointError of some lines is raised."""
    path.write_bytes(content)
    try:
        return load_torch(path)
    except CheckpointError as error:
        message = str(error)
    assert message.startswith(f"cannot load {str(path)!r}: ")
    assert len(message) < 700 + len(str(path))
    return None


def main():
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"

        def read(data):
            load_or_refuse(path, data)
            load_or_refuse(path, archive(data))

        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        for i, seed in enumerate([*SEEDS, *map(archive, SEEDS)]):
            (inputs / str(i)).write_bytes(seed)
        atheris.instrument_all()
        atheris.Setup([*sys.argv, str(inputs)], read)
        with contextlib.suppress(KeyboardInterrupt):
            atheris.Fuzz()


if __name__ == "__main__":
    main()
