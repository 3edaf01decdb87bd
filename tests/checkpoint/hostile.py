"""Files of torch that have to be refused: by one clear error, at little cost."""

import struct
import tracemalloc

import pytest
from checkpoint.fuzz_torch_file import archive, program, state

from npbn.checkpoint.torch_file import load_torch
from npbn.errors import CheckpointError

MB = 1 << 20
HUGE = (1 << 63) - 1
read_and_mapped = pytest.mark.parametrize("path", ["read", "mapped"], indirect=True)


def refusal(path, content=None):
    """Read the content and return the message of the error; the memory that it takes is bounded."""
    if content is not None:
        path.write_bytes(content)
    size = path.stat().st_size if path.is_file() else 0
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            load_torch(path)
        assert tracemalloc.get_traced_memory()[1] < 12 * size + MB  # objects are large
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"cannot load {str(path)!r}: ")
    assert len(message) < 600 + len(str(path))
    return message


def damage(path, *operations, **options):
    return refusal(path, archive(program(*operations), **options))


def as_value(path, value):
    return refusal(path, archive(state(value)))


def patched(content, at, layout, value):
    """Return the content with another number at a place."""
    content = bytearray(content)
    struct.pack_into(layout, content, at, value)
    return bytes(content)
