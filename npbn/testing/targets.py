"""Find the object that a target's name refers to, and how to check it.

========================  =====================================================================
``package.module:object``  an :class:`~npbn.testing.protocol.Implementation`, a class or a
                           function; npbn's own modules work as they are, and so do the
                           libraries that :mod:`npbn.testing.adapters` has a file for
``path/model.onnx``        a model with one BatchNormalization node, run by onnxruntime
``onnx:path/model.onnx``   the same, run by ONNX's reference evaluator
========================  =====================================================================
"""

import importlib
import inspect
import os
import sys
from typing import Any

import npbn
from npbn.testing.adapters import adapter_of
from npbn.testing.npbn_modules import npbn_implementation
from npbn.testing.protocol import (
    Implementation,
    class_implementation,
    function_implementation,
)
from npbn.testing.words import in_words


def load_target(name: str) -> Implementation:
    """Return the implementation that a name refers to.

    Parameters
    ----------
    name : str
        See :mod:`npbn.testing.targets`. Modules are found beside the caller too.

    Raises
    ------
    ValueError
        In one line: if it does not exist, cannot be imported, or is no BatchNorm.
    """
    if name.endswith(".onnx"):
        return _model(name)
    return adapt(_find(name), name)


def adapt(target: Any, name: str | None = None) -> Implementation:
    """Return an object as an implementation.

    Parameters
    ----------
    target : Implementation, class or callable
    name : str, optional
        For the messages.

    Raises
    ------
    ValueError
        If it is none of these, or a module of npbn that is no BatchNorm.
    """
    name = name or getattr(target, "__qualname__", repr(target))
    if isinstance(target, Implementation):
        return target
    if not callable(target):
        raise ValueError(f"{name} is {type(target).__name__}: expected a class or a function")
    if inspect.isclass(target) and issubclass(target, npbn.Module):
        if not hasattr(target, "input_shapes"):
            raise ValueError(f"{name} is no BatchNorm: expected one, such as npbn:BatchNorm1d")
        return npbn_implementation(target)
    if (adapter := adapter_of(target)) is not None:
        adapted: Implementation = adapter.implementation(target)
        return adapted
    if inspect.isclass(target):
        return class_implementation(target)
    return function_implementation(target)


def _find(name: str) -> Any:
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ValueError(f"expected TARGET as package.module:object or model.onnx, got {name!r}")
    if os.getcwd() not in sys.path:  # a file beside the caller, as python -m finds it
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {name!r}: {in_words(error)}") from error
    return found


def _model(name: str) -> Implementation:
    """Return an ONNX model as an implementation, run by the runtime that its prefix names."""
    runtime, path = "onnxruntime", name
    for named in ("onnx", "onnxruntime"):
        if name.startswith(f"{named}:"):
            runtime, path = named, name.removeprefix(f"{named}:")
    try:
        adapter = importlib.import_module(f"npbn.testing.adapters.{runtime}")
        found: Implementation = adapter.model_implementation(path)
        return found
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot load {name!r}: {in_words(error)}") from error
