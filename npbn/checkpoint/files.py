"""save and load: the suffix chooses the format to save in, the content the one to load."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from npbn.errors import CheckpointError, ConfigError
from npbn.io import atomic

# Everything else is imported in functions: zipfile, json and others would slow down `import npbn`.

__all__ = ["Checkpoint", "load", "save"]


class Checkpoint(dict[Any, Any]):
    """The state in a file, as a dict, with the file's metadata.

    Parameters
    ----------
    state : mapping, or iterable of pairs, optional
        As for dict.
    metadata : mapping, optional
        Empty by default.

    Attributes
    ----------
    metadata : dict
        As given to :func:`save`, with ``npbn_version`` and ``format`` added. Of a file of another
        program, its own metadata, or empty.

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
    """Save a state to a file; after a crash the file is either the old one or the new one.

    A flat mapping of names to arrays, such as a ``state_dict``, is stored under its own keys, so
    that other programs can read it with ``np.load`` or safetensors. Arrays in a nested state are
    stored under their paths (``"optimizer/state/0/momentum_buffer"``).

    Parameters
    ----------
    state : mapping, or Module
        Dicts (with keys str, numbers or None), lists, tuples, sets, str, bytes, int of any size,
        float, bool and None, nested in any way, with arrays of floats, complex numbers, integers
        or bools anywhere in them. Their dtypes, shapes and bits are kept, in native byte order.
        Subclasses are loaded as the built-in type, tensors of other libraries as arrays. A Module
        is saved as its ``state_dict()``, with its :func:`npbn.to_config`, if it has one, in
        ``metadata["config"]``.
    path : path
        The suffix chooses the format: ``.npz``, or ``.safetensors``
        (``pip install 'npbn[checkpoints]'``). If it is a symbolic link, the file that the link
        points to is replaced. A replaced file keeps its permissions.
    metadata : mapping, optional
        Anything that JSON can hold: epoch, options, ... By default that of a `Checkpoint`.

    Raises
    ------
    CheckpointError
        If the state contains anything else, the suffix is another one, or safetensors is not
        installed.
    OSError
        If the file cannot be written: it is a folder, there is no permission, the disk is full, ...
        The old file is kept and no other is left behind.

    Notes
    -----
    The data are written to a temporary file in the same folder, which replaces the file after the
    data have reached the disk. A process that is killed in between leaves ``.npbn-*.tmp`` behind,
    which may be deleted.

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
    file_format = _format(_suffix(path))
    if file_format is None:
        raise CheckpointError(f"{path}: expected a name that ends in .npz or .safetensors")
    from npbn.checkpoint import description, tree

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
    atomic.replace(path, lambda temporary: file_format.write(temporary, arrays, text))


def load(
    path: str | os.PathLike[str], *, key: str | None = None, strip_prefix: str = ""
) -> Checkpoint:
    """Load a file that :func:`save` wrote, or the arrays in a file of another program.

    Nothing in a file is executed. The sizes in its header are compared with the size of the file
    before memory is allocated.

    Parameters
    ----------
    path : path
        ``.npz``, ``.safetensors`` (the package is not needed) or torch's ``.pt``, under any name:
        the format is detected from the content. The suffix is used only if that fails.
    key : str, optional
        Where the state is in a file of a training program, such as ``"state_dict"``. Dots
        separate the keys of nested mappings.
    strip_prefix : str, optional
        Removed from the start of all keys, such as ``"module."`` of torch's DataParallel.

    Returns
    -------
    Checkpoint
        A dict equal to the state, with an attribute ``metadata``.

    Raises
    ------
    CheckpointError
        If the file is empty, truncated, damaged or of another format; if it contains what the
        state of no network does, such as Python objects; if it contains no mapping, or there is
        none under the key.
    OSError
        If it cannot be opened.

    Notes
    -----
    ``.npz``: read into memory, and the checksums are compared. Compressed files of other programs
    may need up to 1032 times the size of the file, the highest ratio of their compression.

    ``.safetensors``: mapped, not read, so that loading takes no time until the values are used.
    Writing to the arrays changes private memory, not the file. They stay valid if the file is
    replaced or deleted, but not if another program shortens it in place; ``array.copy()`` does not
    depend on the file. The format has no checksum of the values. bfloat16, which NumPy does not
    have, becomes float32.

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

    Files that torch wrote, read without torch::

        state = npbn.load("model.pt")
        state = npbn.load("run.pth.tar", key="state_dict", strip_prefix="module.")
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
        suffix = _detected(start, os.fstat(file.fileno()).st_size) or _suffix(path)
    if suffix in (".pt", ".pth"):
        return _loaded_torch(path)
    file_format = _format(suffix)
    if file_format is None:
        raise CheckpointError(
            f"{os.fsdecode(path)}: expected .npz, .safetensors, .pt or .pth by content or by name, "
            f"got a file that begins with {start[:8]!r}"
        )
    from npbn.checkpoint import description

    with open(path, "rb") as file:
        try:
            arrays, text, metadata = file_format.read(file)
            return Checkpoint(*description.read(arrays, text, metadata))
        except Exception as error:  # readers may raise anything on a damaged file
            expected = type(error) in (ValueError, CheckpointError)
            what = str(error) if expected else f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{path}: expected an undamaged {suffix} file: {what:.500}"
            ) from error


def _loaded_torch(path: str) -> Checkpoint:
    from npbn.checkpoint.parts import described
    from npbn.checkpoint.torch_file import load_torch

    found = load_torch(path)
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{os.fsdecode(path)}: expected a mapping of names to tensors, such as a state_dict, "
            f"got {described(found)}; npbn.checkpoint.torch_file.load_torch(path) returns it"
        )
    return Checkpoint(found)


def _format(suffix: str) -> ModuleType | None:
    """Return the module that writes and reads files of this suffix."""
    if suffix == ".npz":
        from npbn.checkpoint import npz

        return npz
    if suffix == ".safetensors":
        from npbn.checkpoint import safetensors_file

        return safetensors_file
    return None


def _detected(start: bytes, size: int) -> str | None:
    """Return the suffix of the format of a file with these first bytes, or None."""
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
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its other end
        raise CheckpointError(f"{path}: expected a file, got a device, pipe or socket")


def _suffix(path: str) -> str:
    return os.path.splitext(os.fsdecode(path))[1].lower()


def _config(module: Any) -> dict[str, Any]:
    """Return the description of a network, or nothing if it cannot be described."""
    from npbn.deploy.config import to_config

    if not hasattr(module, "named_modules"):  # an optimiser
        return {}
    try:
        return {"config": to_config(module)}
    except ConfigError:
        return {}
