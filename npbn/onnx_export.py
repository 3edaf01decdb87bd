"""Export to ONNX, for the many runtimes that read it; needs the ``onnx`` package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npbn.errors import ConfigError, NpbnError
from npbn.folding import fold_batch_norm
from npbn.functional.windows import pair
from npbn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
)
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.plain import computes, float_dtypes
from npbn.version import __version__

if TYPE_CHECKING:
    import onnx

__all__ = ["export_onnx"]

# Operators of this version are what onnxruntime has run since 1.14; IR 8 belongs to it. With
# ceil_mode it counts a window that begins in the padding behind the image, which torch and
# onnxruntime's kernels drop: 22 (IR 10, onnxruntime 1.20) does not.
OPSET, IR_VERSION = 18, 8
CEIL_OPSET, CEIL_IR_VERSION = 22, 10


def export_onnx(
    net: Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    fold: bool = False,
) -> None:
    """Write what ``net.predict`` computes as an ONNX model with the input and output "x" and "y".

    The batch size stays open. Parameters keep their names. A BatchNorm becomes a
    ``BatchNormalization`` by its running statistics; Dropout and Identity vanish.

    Parameters
    ----------
    net : Sequential, nested or not, or a layer
        Of npbn's layers.
    path : path
        Written as a whole or not at all.
    input_shape : sequence of int, optional
        The shape of one sample, such as (784,) or (1, 28, 28), which ``net.predict`` has to take.
        By default as the first layer with parameters tells it, height and width left open.
    fold : bool
        Whether to fold BatchNorm first (:func:`npbn.fold_batch_norm`).

    Raises
    ------
    ConfigError
        On a layer that has no such operator, a subclass that may compute anything, and an
        `input_shape` that the network does not take.
    ModuleNotFoundError
        Without the ``onnx`` package.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("export_onnx needs onnx: pip install 'npbn[onnx]'") from error
    from npbn.checkpoint import atomic

    model = _model(fold_batch_norm(net) if fold else net, input_shape)
    if input_shape is not None:
        _check_input_shape(net, tuple(input_shape))
    onnx.checker.check_model(model, full_check=True)
    atomic.replace(os.fspath(path), lambda name: Path(name).write_bytes(model.SerializeToString()))


class _Graph:
    """Nodes and constants so far, and the name and rank of the value that flows."""

    def __init__(self, rank: int, dtype: np.dtype):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value, self.rank, self.dtype = "x", rank, dtype

    def add(self, operator: str, name: str, constants: Sequence[str] = (), **options: Any) -> None:
        """Add an operator on the value that flows, and on constants by name."""
        from onnx import helper

        inputs, self.value = [self.value, *constants], f"{name}.y"
        self.nodes.append(helper.make_node(operator, inputs, [self.value], name=name, **options))

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an array; return its name."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(array).astype(self.dtype, copy=False)
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def _model(net: Module, input_shape: Sequence[int] | None) -> onnx.ModelProto:
    from onnx import helper

    steps = list(_steps(net, ""))
    shape = _input_shape(steps) if input_shape is None else list(input_shape)
    dtype = _dtype(net)
    graph = _Graph(len(shape) + 1, dtype)
    for name, layer in steps:
        _add(graph, name, layer)
    # Without a name, which a layer's could be; the names of values are, those of layers with a dot.
    graph.nodes.append(helper.make_node("Identity", [graph.value], ["y"]))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    x = helper.make_tensor_value_info("x", kind, ["batch", *shape])
    y = helper.make_tensor_value_info("y", kind, ["batch"] + [None] * (graph.rank - 1))
    made = helper.make_graph(graph.nodes, type(net).__name__, [x], [y], graph.constants)
    ceil = any(getattr(layer, "ceil_mode", False) for _, layer in steps)
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", CEIL_OPSET if ceil else OPSET)],
        ir_version=CEIL_IR_VERSION if ceil else IR_VERSION,
        producer_name="npbn",
        producer_version=__version__,
    )
    return model


def _check_input_shape(net: Module, shape: tuple[int, ...]) -> None:
    """Have the network predict one sample of zeros."""
    if not all(isinstance(size, int | np.integer) and size > 0 for size in shape):
        raise ConfigError(f"export_onnx: expected an input_shape of positive ints, got {shape}")
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


def _steps(net: Module, path: str) -> Any:
    """Yield the layers by dotted name in the order in which they run."""
    if not isinstance(net, Sequential):
        yield path or type(net).__name__.lower(), net
        return
    if not computes(net, Sequential):
        raise ConfigError(
            f"export_onnx: {path or 'the network'}: {type(net).__name__} may run its layers in a "
            "way of its own, which has no operator"
        )
    for name, layer in net._submodules():
        if not all(character < "\ud800" or character > "\udfff" for character in name):
            raise ConfigError(f"export_onnx: the name {name!r} of a layer is no Unicode text")
        yield from _steps(layer, f"{path}.{name}" if path else name)


def _input_shape(steps: list[tuple[str, Module]]) -> list[int | str]:
    """Return the shape of a sample, as far as the first layer with parameters tells it."""
    for _, layer in steps:
        if computes(layer, Linear):
            return [layer.in_features]
        if computes(layer, Conv2d):
            return [layer.in_channels, "height", "width"]
        if not computes(layer, ReLU, Sigmoid, Identity, Dropout):
            break
    raise ConfigError(
        "export_onnx: the first layer does not tell the shape of a sample; pass input_shape, "
        "such as (784,) or (1, 28, 28), or on the command line --input-shape 1,28,28"
    )


def _add(graph: _Graph, name: str, layer: Module) -> None:
    """Add the operators of one layer."""
    if computes(layer, Identity, Dropout):
        return
    if computes(layer, ReLU, Sigmoid):
        graph.add("Relu" if isinstance(layer, ReLU) else "Sigmoid", name)
    elif computes(layer, Linear):
        _add_linear(graph, name, layer)
    elif computes(layer, BatchNorm):
        _add_batch_norm(graph, name, layer)
    elif computes(layer, Flatten):
        if layer.start_dim != 1 or layer.end_dim not in (-1, graph.rank - 1):
            raise ConfigError(f"export_onnx: {name}: expected Flatten() of all but N, got {layer}")
        graph.add("Flatten", name, axis=1)
        graph.rank = 2
    elif computes(layer, Conv2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d):
        if graph.rank != 4:
            raise ConfigError(
                f"export_onnx: {name}: {layer} takes images; pass input_shape=(C, H, W)"
            )
        _add_of_images(graph, name, layer)
    else:
        raise ConfigError(f"export_onnx: {name}: no operator for {type(layer).__name__}")


def _add_linear(graph: _Graph, name: str, layer: Linear) -> None:
    bias = None if layer.bias is None else graph.constant(f"{name}.bias", layer.bias.data)
    if graph.rank == 2:
        constants = [graph.constant(f"{name}.weight", layer.weight.data)]
        graph.add("Gemm", name, constants + ([bias] if bias else []), transB=1)
        return
    graph.add("MatMul", name, [graph.constant(f"{name}.weight", layer.weight.data.T)])
    if bias:
        graph.add("Add", f"{name}.add", [bias])


def _add_batch_norm(graph: _Graph, name: str, layer: BatchNorm) -> None:
    if graph.rank not in layer.input_shapes:
        raise ConfigError(
            f"export_onnx: {name}: {layer} takes {' or '.join(layer.input_shapes.values())}, and "
            f"gets {graph.rank} axes"
        )
    if layer.running_mean is None or layer.running_var is None:
        raise ConfigError(
            f"export_onnx: {name} keeps no running statistics (track_running_stats=False)"
        )
    channels = layer.num_features
    arrays = {
        "weight": np.ones(channels) if layer.weight is None else layer.weight.data,
        "bias": np.zeros(channels) if layer.bias is None else layer.bias.data,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }
    epsilon = float(np.float32(layer.eps))  # as ONNX has it; float64 notices the rest of it
    if graph.dtype == np.float64:
        arrays["running_var"] = arrays["running_var"] + (layer.eps - epsilon)
    constants = [graph.constant(f"{name}.{key}", array) for key, array in arrays.items()]
    graph.add("BatchNormalization", name, constants, epsilon=epsilon)


def _add_of_images(graph: _Graph, name: str, layer: Module) -> None:
    if isinstance(layer, AdaptiveAvgPool2d):
        if layer.output_size not in (1, (1, 1)):
            raise ConfigError(
                f"export_onnx: {name}: no operator for {layer}; only output_size=1 has one"
            )
        graph.add("GlobalAveragePool", name)
        return
    kernel = pair(name, "kernel_size", layer.kernel_size, 1)
    options: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": pair(name, "stride", layer.stride, 1),
    }
    if isinstance(layer, AvgPool2d):
        if layer.divisor_override is not None:
            raise ConfigError(f"export_onnx: {name}: no operator for divisor_override")
        options["count_include_pad"] = int(layer.count_include_pad)
    else:
        options["dilations"] = pair(name, "dilation", layer.dilation, 1)
    options["pads"] = _pads(layer, kernel, options.get("dilations", (1, 1)))
    if not isinstance(layer, Conv2d):
        operator = "MaxPool" if isinstance(layer, MaxPool2d) else "AveragePool"
        graph.add(operator, name, ceil_mode=int(layer.ceil_mode), **options)
        return
    constants = [graph.constant(f"{name}.weight", layer.weight.data)]
    if layer.bias is not None:
        constants.append(graph.constant(f"{name}.bias", layer.bias.data))
    graph.add("Conv", name, constants, group=layer.groups, **options)


def _pads(layer: Any, kernel: tuple[int, int], dilations: tuple[int, int]) -> list[int]:
    """Return the padding as ONNX has it: all befores, then all afters."""
    if layer.padding == "valid":
        return [0] * 4
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        before = [total // 2 for total in totals]
        return before + [total - b for total, b in zip(totals, before, strict=True)]
    return [*pair("", "padding", layer.padding, 0)] * 2
