"""A model in onnxruntime, whose every warning is an error."""

import contextlib
import os
import tempfile

import onnxruntime


def run(path, x):
    """Return what a model makes of x; AssertionError if the runtime writes to standard error."""
    with nothing_said():
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(["y"], {"x": x})[0]


@contextlib.contextmanager
def nothing_said():
    """See that C writes nothing to standard error, where the runtime's warnings go."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        assert file.read().decode() == ""
