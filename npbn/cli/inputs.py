"""What the commands read: state_dicts, networks, images."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import npbn
from npbn.checkpoint.parts import states_within
from npbn.errors import ConfigError, DataError, StateDictError
from npbn.io.quoting import quoted
from npbn.layers.plain import float_dtypes
from npbn.layers.state import WRAPPERS

_ANY_SHAPE = (npbn.Sequential, npbn.ReLU, npbn.Sigmoid, npbn.Identity, npbn.Dropout)
_IMAGES = (
    npbn.Conv2d,
    npbn.BatchNorm2d,
    npbn.MaxPool2d,
    npbn.AvgPool2d,
    npbn.AdaptiveAvgPool2d,
)


def loaded(path: Path, options: argparse.Namespace) -> npbn.Checkpoint:
    """Load a file, or the part of it that --key and --strip-prefix select."""
    return npbn.load(path, key=options.key, strip_prefix=options.strip_prefix)


def arrays(state: Any) -> dict[tuple[Any, ...], np.ndarray]:
    """Return all arrays of a state, however nested, by their paths of keys."""
    return dict(_arrays(state, ()))


def _arrays(state: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    for name, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, dict | list | tuple):
            yield from _arrays(value, (*path, name))
        elif isinstance(value, np.ndarray):
            yield (*path, name), value


def names(paths: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Return a dotted name for each path, or ``['a']['b.c']`` where several would have the same."""
    dotted = {path: ".".join(map(str, path)) for path in paths}
    shared = {name for name, number in Counter(dotted.values()).items() if number > 1}
    return {
        path: "".join(f"[{quoted(key)}]" for key in path) if name in shared else name
        for path, name in dotted.items()
    }


def selections(state: Mapping[Any, Any], options: argparse.Namespace) -> list[str]:
    """Return the options that select each state_dict in a file, without a common prefix."""
    prefix = _prefix(state)
    here = [f"--strip-prefix {prefix}"] if prefix and not options.strip_prefix else []
    if options.key is not None:
        return here
    found = []
    for key, inner in states_within(state):
        prefix = _prefix(inner)
        more = f" --strip-prefix {prefix}" if prefix else ""
        equals = "=" if key.startswith("-") else " "  # or it would be another option
        found.append(f"--key{equals}{shlex.quote(key)}{more}")
    return found + here


def _prefix(state: Mapping[Any, Any]) -> str | None:
    """Return the prefix of all keys of a state_dict, None if there is none or this is no state."""
    if not state or not all(isinstance(value, np.ndarray) for value in state.values()):
        return None
    keys = list(map(str, state))
    return next((p for p in WRAPPERS if all(key.startswith(p) for key in keys)), None)


def network(options: argparse.Namespace, state: npbn.Checkpoint) -> npbn.Module:
    """Return the network that the options or the file describe, with the file's arrays."""
    try:
        return _network(options, state)
    except (ConfigError, StateDictError) as error:
        found = selections(state, options)
        if not found:
            raise
        raise type(error)(f"select the state_dict with {' or '.join(found)} ({error})") from error


def _network(options: argparse.Namespace, state: npbn.Checkpoint) -> npbn.Module:
    config = None
    if options.config:
        config = _json(options.config)
    elif not options.network:
        config = state.metadata.get("config")
    if config is not None:
        net = npbn.from_config(config, state=state)
    elif options.network:
        kind = {"mlp": npbn.MLP, "cnn": npbn.CNN}[options.network]
        net = kind(use_batch_norm=any("norm" in str(key) for key in state))
        net.load_state_dict(state)
    else:
        try:
            net = npbn.from_state_dict(state)
        except ConfigError as error:
            raise ConfigError(
                f"the file does not describe its network; pass --network or --config ({error})"
            ) from error
    return net.eval()


def _json(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, got {error}") from error


@np.errstate(all="ignore")
def images(path: Path, net: npbn.Module) -> np.ndarray:
    """Read images in the dtype and the shape that the network expects."""
    read = _pixels(path)
    dtype = next(iter(float_dtypes(net)), np.dtype(np.float32))
    read = read.astype(dtype) / dtype.type(255) if read.dtype == np.uint8 else read
    if read.ndim < 2 or read.dtype.kind not in "fiub":
        raise DataError(f"{path}: expected images of shape (N, ...), got {read.dtype} {read.shape}")
    first = next((m for m in net.modules() if not isinstance(m, _ANY_SHAPE)), None)
    if isinstance(first, npbn.Linear):
        read = read.reshape(len(read), math.prod(read.shape[1:]))
    elif isinstance(first, _IMAGES) and read.ndim == 3:
        read = read[:, None]
    return read.astype(dtype, copy=False)


def _pixels(path: Path) -> np.ndarray:
    from npbn.checkpoint.npz import read_npy

    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise DataError(f"{path}: expected a file of images, got a folder, device or pipe")
    with open(path, "rb") as file:
        if path.suffix != ".npy" and file.peek(6)[:6] != b"\x93NUMPY":
            return npbn.data.read_idx(path)
        try:
            return read_npy(file, path.name, os.fstat(file.fileno()).st_size)
        except Exception as error:  # NumPy's reader may raise anything on a damaged file
            raise DataError(f"{path}: expected an undamaged .npy file: {error}") from error
