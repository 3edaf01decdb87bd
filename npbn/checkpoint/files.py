"""Save to a format that the suffix tells; load from one that the content tells."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Any

from npbn.errors import CheckpointError, ConfigError

# Nothing more is imported up here: zipfile, json and the like would slow `import npbn`.

__all__ = ["Checkpoint", "load", "save"]


class Checkpoint(dict):
    """What :func:`load` returns: the state as it was saved, and what was said about it.

    Attributes
    ----------
    metadata : dict
        As given to :func:`save`, with ``npbn_version`` and ``format`` added; what a file of
        another program says about itself, or empty.

    Examples
    --------
    >>> Checkpoint({"epoch": 3}, {"title": "a run"}).metadata
    {'title': 'a run'}
    """

    def __init__(self, state: Any = (), metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(state)
        self.metadata: dict[str, Any] = dict(metadata or {})


def save(
    state: Any, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Save a state to a file, at once and whole: a crash leaves the old file or the new one.

    A flat mapping of names to arrays, such as a ``state_dict``, is stored under its own keys, so
    that ``np.load`` or safetensors read it plainly in another program. Of nested states too the
    arrays are stored by name (``"optimizer/state/0/momentum_buffer"``).

    Parameters
    ----------
    state : mapping, or Module
        Dicts (keys str, numbers or None), lists, tuples, sets, str, bytes, int of any size, float,
        bool and None, nested as you like, with arrays of floats, complex numbers, integers or
        bools anywhere in them. They come back
        with their dtypes, shapes and bits, in the machine's byte order; a subclass comes back as
        the plain kind, tensors of other libraries as arrays. A Module stands for its
        ``state_dict()``; its :func:`npbn.to_config`, where it has one, goes into
        ``metadata["config"]``.
    path : path
        Its suffix tells the format: ``.npz``, or ``.safetensors``
        (``pip install 'npbn[checkpoints]'``). A symbolic link stays one, and the permissions of
        a file that is replaced stay as they were.
    metadata : mapping, optional
        What JSON can hold: epoch, options, ... By default what a `Checkpoint` already has.

    Raises
    ------
    CheckpointError
        If the state holds something else, the suffix is another, or safetensors is missing.
    OSError
        If the file cannot be written: a folder, no permission, a full disk, ... The old file
        stands then, and nothing else is left behind.

    Notes
    -----
    The data are written to a temporary file beside it, which takes the file's place when they
    have reached the disk. A process killed just then leaves it behind: ``.npbn-*.tmp``, which may
    be deleted.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> state = {"model": {"weight": np.eye(2)}, "order": rng.bit_generator.state}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(state, f"{folder}/run.npz", metadata={"epoch": 3})
    ...     found = load(f"{folder}/run.npz")
    >>> found["model"]["weight"]
    array([[1., 0.],
           [0., 1.]])
    >>> found["order"] == rng.bit_generator.state
    True
    >>> found.metadata["epoch"]
    3
    """
    path = os.fspath(path)
    suffix = _suffix(path)
    if suffix == ".npz":
        from npbn.checkpoint import npz as kind
    elif suffix == ".safetensors":
        from npbn.checkpoint import safetensors_file as kind
    else:
        raise CheckpointError(f"{path}: expected a name in .npz or .safetensors to save to")
    from npbn.checkpoint import description, tree
    from npbn.io import atomic

    if metadata is None:
        metadata = getattr(state, "metadata", {})
    if not isinstance(state, Mapping) and callable(getattr(state, "state_dict", None)):
        metadata = {**_config(state), **metadata}
        state = state.state_dict()
    try:
        arrays, skeleton = tree.flatten(state)
        text = description.write(arrays, skeleton, metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    atomic.replace(path, lambda temporary: kind.write(temporary, arrays, text))


def load(
    path: str | os.PathLike[str], *, key: str | None = None, strip_prefix: str = ""
) -> Checkpoint:
    """Load what :func:`save` saved, or the arrays in a file of another program.

    Nothing in a file is ever run, and what its header promises is checked against its size
    before memory is taken.

    Parameters
    ----------
    path : path
        ``.npz``, ``.safetensors`` (needs no package) or torch's ``.pt``, of any name: the content
        tells which, and only where that is damaged the suffix.
    key : str, optional
        Where the state is within what a training program saved, such as ``"state_dict"``; with
        dots in mappings in mappings.
    strip_prefix : str, optional
        What all keys begin with and the result's do not: ``"module."`` of torch's DataParallel.

    Returns
    -------
    Checkpoint
        A dict equal to the state, with an attribute ``metadata``.

    Raises
    ------
    CheckpointError
        If the file is empty, truncated, corrupt, of no such format, or holds what no network's
        state does, such as Python objects; if it holds no mapping, or nothing under the key.
    OSError
        If it cannot be opened.

    Notes
    -----
    ``.npz``: read into memory, and its checksums are compared. Compressed ones of other programs
    may take 1032 times the file's size, the most that their compression gives.

    ``.safetensors``: mapped, not read, so that it takes no time until the values are used. The
    arrays may be changed; that changes memory that is theirs alone, never the file. They stay
    valid when the file is replaced or deleted, but not when another program shortens it in place;
    ``array.copy()`` depends on no file. The format has no checksum of the values. bfloat16, which
    NumPy has not, becomes float32.

    ``.pt``: see :func:`npbn.checkpoint.torch_file.load_torch`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "state.npz")
    ...     save({"epoch": 3, "weight": np.ones(2)}, path)
    ...     state = load(path)
    >>> state["epoch"], state["weight"]
    (3, array([1., 1.]))
    """
    path = os.fspath(path)
    _check_readable(path)
    found = _loaded(path)
    if key is None and not strip_prefix:
        return found
    from npbn.checkpoint import parts

    try:
        state = found if key is None else parts.part(found, key)
        state = parts.stripped(state, strip_prefix) if strip_prefix else state
    except CheckpointError as error:
        raise CheckpointError(f"{os.fsdecode(path)}: {error}") from error
    return Checkpoint(state, found.metadata)


def _loaded(path: str) -> Checkpoint:
    with open(path, "rb") as file:
        start = file.read(512)
        told = _told(start, os.fstat(file.fileno()).st_size) or _suffix(path)
    if told in (".pt", ".pth"):
        from npbn.checkpoint.parts import described
        from npbn.checkpoint.torch_file import load_torch

        found = load_torch(path)
        if not isinstance(found, dict):
            what = described(found)
            raise CheckpointError(
                f"{os.fsdecode(path)}: expected a mapping of names to tensors, such as a "
                f"state_dict, got {what}; npbn.checkpoint.torch_file.load_torch(path) returns it"
            )
        return Checkpoint(found)
    if told == ".npz":
        from npbn.checkpoint import npz as kind
    elif told == ".safetensors":
        from npbn.checkpoint import safetensors_file as kind
    else:
        raise CheckpointError(
            f"{os.fsdecode(path)}: expected a name in .npz, .safetensors, .pt or .pth, or a file "
            f"of such content, got one that begins with {start[:8]!r}"
        )
    from npbn.checkpoint import description

    with open(path, "rb") as file:
        try:
            arrays, text, metadata = kind.read(file)
            return Checkpoint(*description.read(arrays, text, metadata))
        # A damaged file makes its readers fail in every way there is; to the caller it is one.
        except Exception as error:
            plain = type(error) in (ValueError, CheckpointError)
            what = str(error) if plain else f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{path}: expected a sound {told} file: {what:.500}") from error


def _told(start: bytes, size: int) -> str | None:
    """Return the suffix that fits the first bytes of a file, None if they are of no format."""
    if start.startswith(b"PK\3\4"):
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        if name.endswith(b".npy") or name == b"npbn.json":
            return ".npz"
        return ".pt" if b"/" in name else None
    if start.startswith(b"\x80"):  # a pickle, or the length of a header
        from npbn.checkpoint.torch_legacy import is_legacy

        if is_legacy(start):
            return ".pt"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return ".safetensors"
    return None


def _check_readable(path: str) -> None:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):  # open would wait for the other end of a pipe
        raise CheckpointError(f"{path}: expected a file, got a device, pipe or socket")


def _suffix(path: str) -> str:
    return os.path.splitext(os.fsdecode(path))[1].lower()


def _config(module: Any) -> dict[str, Any]:
    """Return the network's description, if it is one that has any."""
    from npbn.deploy.config import to_config

    if not hasattr(module, "named_modules"):  # an optimiser
        return {}
    try:
        return {"config": to_config(module)}
    except ConfigError:
        return {}
