"""Export to ONNX, which many runtimes read; needs the ``onnx`` package."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from npbn.deploy.folding import fold_batch_norm
from npbn.deploy.onnx_operators import Graph, add_layer
from npbn.errors import ConfigError, NpbnError
from npbn.io import atomic
from npbn.io.quoting import quoted
from npbn.layers import Conv2d, Dropout, Identity, Linear, Module, ReLU, Sequential, Sigmoid
from npbn.layers.plain import computes, float_dtypes
from npbn.version import __version__

if TYPE_CHECKING:
    import onnx

__all__ = ["export_onnx"]

# onnxruntime has supported this version since 1.14; its files have IR version 8. With ceil_mode its
# shape inference counts a window that begins in the padding after the image, which torch and
# onnxruntime's kernels drop. Version 22 (IR version 10, onnxruntime 1.20) does not count it.
OPSET, IR_VERSION = 18, 8
CEIL_OPSET, CEIL_IR_VERSION = 22, 10


def export_onnx(
    net: Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    fold: bool = False,
) -> None:
    """Write a network as an ONNX model that computes ``net.predict``, from input "x" to output "y".

    The batch size stays open. Parameters keep their names. A BatchNorm becomes a
    ``BatchNormalization`` with its running statistics; Dropout and Identity are left out. Only
    chains can be exported: Sequentials that run their layers one after another, nested or not. A
    residual block, which adds its input, is not a chain.

    Parameters
    ----------
    net : Sequential, or a single layer
        With layers of npbn. Not changed.
    path : path
        The file, replaced as a whole or not at all.
    input_shape : sequence of int, optional
        The shape of one sample, such as (784,) or (1, 28, 28), which ``net.predict`` has to accept.
        By default that of the first layer with parameters, with height and width left open.
    fold : bool
        Whether to fold BatchNorm first (:func:`npbn.fold_batch_norm`).

    Raises
    ------
    ConfigError
        On a layer without an ONNX operator, a subclass that may compute anything, parameters of
        several dtypes, and an `input_shape` that the network does not accept.
    OSError
        If the file cannot be written. The old file, if there is one, is kept.
    ModuleNotFoundError
        If the ``onnx`` package is not installed.

    Examples
    --------
    Export, and run with ONNX Runtime::

        npbn.export_onnx(net, "model.onnx", fold=True)
        session = onnxruntime.InferenceSession("model.onnx")
        (y,) = session.run(["y"], {"x": x})
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("export_onnx needs onnx: pip install 'npbn[onnx]'") from error

    if input_shape is not None:
        _check_sizes(tuple(input_shape))
    model = _model(fold_batch_norm(net) if fold else net, input_shape)
    if input_shape is not None:
        _check_input_shape(net, tuple(input_shape))
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()

    def write(name: str) -> None:
        Path(name).write_bytes(data)

    atomic.replace(os.fspath(path), write)


def _model(net: Module, input_shape: Sequence[int] | None) -> onnx.ModelProto:
    from onnx import helper

    steps = list(_steps(net, ""))
    shape = _input_shape(steps) if input_shape is None else list(input_shape)
    dtype = _dtype(net)
    graph = Graph(len(shape) + 1, dtype)
    for name, layer in steps:
        add_layer(graph, name, layer)
    # This node has no name, as a layer could have any. Names of values have a dot, "y" has none.
    graph.nodes.append(helper.make_node("Identity", [graph.value], ["y"]))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    x = helper.make_tensor_value_info("x", kind, ["batch", *shape])
    y = helper.make_tensor_value_info("y", kind, ["batch"] + [None] * (graph.rank - 1))
    nodes = helper.make_graph(graph.nodes, type(net).__name__, [x], [y], graph.constants)
    ceil = any(getattr(layer, "ceil_mode", False) for _, layer in steps)
    return helper.make_model(
        nodes,
        opset_imports=[helper.make_opsetid("", CEIL_OPSET if ceil else OPSET)],
        ir_version=CEIL_IR_VERSION if ceil else IR_VERSION,
        producer_name="npbn",
        producer_version=__version__,
    )


def _check_sizes(shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless these are sizes that ONNX can store, in 64 bits."""
    if not all(isinstance(size, int | np.integer) and 0 < size < 1 << 63 for size in shape):
        raise ConfigError(
            f"export_onnx: expected an input_shape of positive integers, got {quoted(shape)}"
        )


def _check_input_shape(net: Module, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless the network accepts one sample of zeros."""
    try:
        net.predict(np.zeros((1, *shape), _dtype(net)))
    except (NpbnError, ValueError, MemoryError) as error:
        raise ConfigError(f"export_onnx: input_shape {shape} does not fit: {error}") from error


def _dtype(net: Module) -> np.dtype:
    dtypes = float_dtypes(net)
    if len(dtypes) > 1:
        raise ConfigError(
            "export_onnx: expected parameters and statistics of one dtype, got "
            f"{', '.join(map(str, dtypes))}"
        )
    return dtypes[0] if dtypes else np.dtype(np.float32)


def _steps(net: Module, path: str) -> Iterator[tuple[str, Module]]:
    """Yield the layers by dotted name in the order in which they run."""
    if not isinstance(net, Sequential):
        yield path or type(net).__name__.lower(), net
        return
    if not computes(net, Sequential):
        raise ConfigError(
            f"export_onnx: {path or 'the network'}: {type(net).__name__} may not run its "
            "layers one after another, and only such chains can be exported"
        )
    for name, layer in net._submodules():
        if not all(character < "\ud800" or character > "\udfff" for character in name):
            raise ConfigError(f"export_onnx: the name {name!r} of a layer is not valid Unicode")
        yield from _steps(layer, f"{path}.{name}" if path else name)


def _input_shape(steps: list[tuple[str, Module]]) -> list[int | str]:
    """Return the shape of a sample that the first layer with parameters expects."""
    for _, layer in steps:
        if computes(layer, Linear):
            return [layer.in_features]
        if computes(layer, Conv2d):
            return [layer.in_channels, "height", "width"]
        if not computes(layer, ReLU, Sigmoid, Identity, Dropout):
            break
    raise ConfigError(
        "export_onnx: the first layer does not determine the shape of a sample; pass input_shape, "
        "such as (784,) or (1, 28, 28), or on the command line --input-shape 1,28,28"
    )
