"""What a checkpoint says about itself: one JSON text, with a checksum, beside the arrays."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from npbn.checkpoint import tree
from npbn.io.quoting import quoted
from npbn.version import __version__

FORMAT = 1  # one more whenever files are written that older versions would misread


def write(arrays: tree.Arrays, skeleton: Any, metadata: Mapping[str, Any]) -> str:
    """Return the text that tells of the arrays, their place in the state, and the metadata.

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
        body = json.loads(json.dumps(body))  # keys that are no strings now are, as when it is read
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected metadata that JSON can hold: {error}") from error
    return json.dumps({**body, "crc32": _checksum(body)})


def read(
    arrays: tree.Arrays, text: str | None, metadata: Mapping[str, Any]
) -> tuple[dict[Any, Any], Mapping[str, Any]]:
    """Return state and metadata; without a text, the arrays as they are and that `metadata`.

    Raises
    ------
    ValueError
        If the text is damaged, or does not fit the arrays.
    """
    if text is None:
        return arrays, metadata
    body = json.loads(text)
    if not isinstance(body, dict) or body.pop("crc32", None) != _checksum(body):
        raise ValueError("its description is damaged: the checksum is another")
    metadata, expected = body["metadata"], body["arrays"]
    if metadata["format"] != FORMAT:
        raise ValueError(
            f"expected format {FORMAT}, got {quoted(metadata['format'])}, of npbn "
            f"{quoted(metadata['npbn_version'])}; this is npbn {__version__}"
        )
    for name in (*expected, *arrays):
        came = _kind(arrays[name]) if name in arrays else "nothing"
        if came != expected.get(name, "nothing"):
            made = expected.get(name, "nothing")
            raise ValueError(f"{quoted(name)}: expected {made!s:.100}, got {came}")
    return tree.rebuild(body["state"], {name: arrays[name] for name in expected}), metadata


def _kind(array: np.ndarray) -> list[Any]:
    return [array.dtype.name, list(array.shape)]


def _checksum(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body).encode())
