"""The description in a checkpoint: one JSON text, with a checksum, beside the arrays."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from npbn.checkpoint import tree
from npbn.io.quoting import quoted
from npbn.version import __version__

FORMAT = 1  # increased whenever older versions would misread the files


def write(arrays: tree.Arrays, skeleton: Any, metadata: Mapping[str, Any]) -> str:
    """Return the text: dtypes and shapes of the arrays, their places in the state, and metadata.

    Raises
    ------
    ValueError
        If JSON cannot hold the metadata.
    """
    body = {
        "metadata": {**metadata, "npbn_version": __version__, "format": FORMAT},
        "arrays": {name: _kind(array) for name, array in arrays.items()},
        "state": skeleton,
    }
    try:
        body = json.loads(json.dumps(body))  # as when it is read: all keys are strings
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected metadata that JSON can hold: {error}") from error
    return json.dumps({**body, "crc32": _checksum(body)})


def read(
    arrays: tree.Arrays, text: str | None, metadata: Mapping[str, Any]
) -> tuple[dict[Any, Any], Mapping[str, Any]]:
    """Return state and metadata; if there is no text, the arrays and the given `metadata`.

    Raises
    ------
    ValueError
        If the text is damaged, or does not fit the arrays.
    """
    if text is None:
        return arrays, metadata
    body = json.loads(text)
    if not isinstance(body, dict) or body.pop("crc32", None) != _checksum(body):
        raise ValueError("its description is damaged: the checksum is wrong")
    metadata, expected = body["metadata"], body["arrays"]
    if metadata["format"] != FORMAT:
        raise ValueError(
            f"expected format {FORMAT}, got {quoted(metadata['format'])}, of npbn "
            f"{quoted(metadata['npbn_version'])}; this is npbn {__version__}"
        )
    for name in (*expected, *arrays):
        written = expected.get(name, "nothing")
        found = _kind(arrays[name]) if name in arrays else "nothing"
        if found != written:
            raise ValueError(f"{quoted(name)}: expected {written!s:.100}, got {found}")
    return tree.rebuild(body["state"], {name: arrays[name] for name in expected}), metadata


def _kind(array: np.ndarray) -> list[Any]:
    return [array.dtype.name, list(array.shape)]


def _checksum(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body).encode())
