"""The command ``info``: what is in a file, and whether its values look healthy."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from npbn.checkpoint.parts import described
from npbn.cli import inputs
from npbn.io.quoting import printable, quoted

WIDEST = 60  # characters of the column of keys


def info(options: argparse.Namespace) -> int:
    """Show what is in a file; return 1 if values look unhealthy."""
    state = inputs.loaded(options.file, options)
    found = inputs.arrays(state)
    names = inputs.names(found)
    width = column_width(names.values())
    unhealthy = []
    for path, array in found.items():
        key = names[path]
        print(f"{printable(key, 200):{width}}  {array.dtype!s:8} {array.shape!s}")
        unhealthy += [f"{printable(key, 200)}: {problem}" for problem in _problems(path, array)]
    for key, value in state.items():
        if not isinstance(value, np.ndarray):
            print(f"{printable(str(key), 200):{width}}  {described(value)}")
    print(totals(found.values()))
    for name, value in state.metadata.items():
        if name == "config":
            print("network:")
            for line in _layers(value, ""):
                print(f"  {printable(line, 500)}")
        else:
            print(f"{printable(name)}: {printable(str(value), 500)}")
    file = shlex.quote(printable(str(options.file), 500))
    for selection in inputs.selections(state, options):
        print(f"a state_dict: npbn convert {file} OUT.npz {selection}")
    for problem in unhealthy:
        print(f"unhealthy: {problem}")
    return 1 if unhealthy else 0


def column_width(keys: Iterable[str]) -> int:
    """Return the width of a column that shows these keys, unless they are very long."""
    return min(max((len(printable(key, 200)) for key in keys), default=0), WIDEST)


def totals(arrays: Iterable[np.ndarray]) -> str:
    """Return the number of arrays, of their elements and of their bytes as text."""
    sizes = [(array.size, array.nbytes) for array in arrays]
    numbers, size = sum(size for size, _ in sizes), sum(nbytes for _, nbytes in sizes)
    return f"{len(sizes)} arrays, {numbers:,} numbers, {size:,} bytes"


def _layers(config: Any, path: str) -> Iterator[str]:
    """Yield a line for each layer of a description, which may be anything."""
    parts = config.get("layers") if isinstance(config, Mapping) else None
    if isinstance(parts, Mapping):
        for name, part in parts.items():
            yield from _layers(part, f"{path}.{name}" if path else str(name))
    elif isinstance(config, Mapping):
        arguments = [f"{name}={quoted(value)}" for name, value in config.items() if name != "type"]
        layer = f"{config.get('type')}({', '.join(arguments)})"
        yield f"{path}: {layer}" if path else layer
    else:
        yield quoted(config)


def _problems(path: tuple[Any, ...], array: np.ndarray) -> list[str]:
    """Return what looks unhealthy about an array."""
    if array.dtype.kind != "f" or not array.size:
        return []
    found = []
    wide = array.astype(np.float64)
    for what, wrong in (("NaN", np.isnan(wide)), ("infinite", np.isinf(wide))):
        if wrong.any():
            found.append(f"{np.count_nonzero(wrong)} of {array.size} are {what}")
    if str(path[-1]).rpartition(".")[2] == "running_var":
        for what, wrong in (("negative", wide < 0), ("zero: a dead channel", wide == 0)):
            if wrong.any():
                found.append(f"{np.count_nonzero(wrong)} of {array.size} variances are {what}")
    return found
