"""The ONNX operators of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npbn.errors import ConfigError
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
    Sigmoid,
)
from npbn.layers.batch_norm import BatchNorm
from npbn.layers.plain import computes

if TYPE_CHECKING:
    import onnx


class Graph:
    """The nodes and constants of a chain; the name and the rank of its output so far."""

    def __init__(self, rank: int, dtype: np.dtype):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value = "x"
        self.rank = rank
        self.dtype = dtype

    def add(self, operator: str, name: str, constants: Sequence[str] = (), **options: Any) -> None:
        """Add an operator that takes the output so far, and constants by name."""
        from onnx import helper

        inputs, self.value = [self.value, *constants], f"{name}.y"
        self.nodes.append(helper.make_node(operator, inputs, [self.value], name=name, **options))

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an array; return its name."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(array).astype(self.dtype, copy=False)
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def add_layer(graph: Graph, name: str, layer: Module) -> None:
    """Add the operators of one layer."""
    if computes(layer, Identity, Dropout):
        return
    if computes(layer, ReLU):
        graph.add("Relu", name)
    elif computes(layer, Sigmoid):
        graph.add("Sigmoid", name)
    elif computes(layer, Linear):
        _add_linear(graph, name, layer)
    elif computes(layer, BatchNorm):
        _add_batch_norm(graph, name, layer)
    elif computes(layer, Flatten):
        if layer.start_dim != 1 or layer.end_dim not in (-1, graph.rank - 1):
            raise ConfigError(
                f"export_onnx: {name}: expected Flatten() of all axes but N, got {layer}"
            )
        graph.add("Flatten", name, axis=1)
        graph.rank = 2
    elif computes(layer, AdaptiveAvgPool2d):
        _add_global_average(graph, name, layer)
    elif computes(layer, Conv2d):
        _add_convolution(graph, name, layer)
    elif computes(layer, MaxPool2d):
        _add_pooling(
            graph, name, layer, "MaxPool", dilations=pair(name, "dilation", layer.dilation, 1)
        )
    elif computes(layer, AvgPool2d):
        if layer.divisor_override is not None:
            raise ConfigError(f"export_onnx: {name}: no operator for divisor_override")
        include = int(layer.count_include_pad)
        _add_pooling(graph, name, layer, "AveragePool", count_include_pad=include)
    else:
        raise ConfigError(f"export_onnx: {name}: no operator for {type(layer).__name__}")


def _add_linear(graph: Graph, name: str, layer: Linear) -> None:
    bias = None if layer.bias is None else graph.constant(f"{name}.bias", layer.bias.data)
    if graph.rank == 2:
        constants = [graph.constant(f"{name}.weight", layer.weight.data)]
        graph.add("Gemm", name, constants + ([bias] if bias else []), transB=1)
        return
    graph.add("MatMul", name, [graph.constant(f"{name}.weight", layer.weight.data.T)])
    if bias:
        graph.add("Add", f"{name}.add", [bias])


def _add_batch_norm(graph: Graph, name: str, layer: BatchNorm) -> None:
    if graph.rank not in layer.input_shapes:
        raise ConfigError(
            f"export_onnx: {name}: {layer} takes {' or '.join(layer.input_shapes.values())}, but "
            f"its input has {graph.rank} axes"
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
    # ONNX stores epsilon in float32. In float64 running_var makes up for the difference.
    epsilon = float(np.float32(layer.eps))
    if graph.dtype == np.float64:
        arrays["running_var"] = arrays["running_var"] + (layer.eps - epsilon)
    constants = [graph.constant(f"{name}.{key}", array) for key, array in arrays.items()]
    graph.add("BatchNormalization", name, constants, epsilon=epsilon)


def _check_images(graph: Graph, name: str, layer: Module) -> None:
    if graph.rank != 4:
        raise ConfigError(f"export_onnx: {name}: {layer} takes images; pass input_shape=(C, H, W)")


def _add_global_average(graph: Graph, name: str, layer: AdaptiveAvgPool2d) -> None:
    _check_images(graph, name, layer)
    if layer.output_size not in (1, (1, 1)):
        raise ConfigError(
            f"export_onnx: {name}: no operator for {layer}; only output_size=1 has one"
        )
    graph.add("GlobalAveragePool", name)


def _add_pooling(
    graph: Graph, name: str, layer: MaxPool2d | AvgPool2d, operator: str, **options: Any
) -> None:
    _check_images(graph, name, layer)
    graph.add(
        operator,
        name,
        kernel_shape=pair(name, "kernel_size", layer.kernel_size, 1),
        strides=pair(name, "stride", layer.stride, 1),
        pads=[*pair(name, "padding", layer.padding, 0)] * 2,
        ceil_mode=int(layer.ceil_mode),
        **options,
    )


def _add_convolution(graph: Graph, name: str, layer: Conv2d) -> None:
    _check_images(graph, name, layer)
    constants = [graph.constant(f"{name}.weight", layer.weight.data)]
    if layer.bias is not None:
        constants.append(graph.constant(f"{name}.bias", layer.bias.data))
    kernel = pair(name, "kernel_size", layer.kernel_size, 1)
    dilations = pair(name, "dilation", layer.dilation, 1)
    graph.add(
        "Conv",
        name,
        constants,
        kernel_shape=kernel,
        strides=pair(name, "stride", layer.stride, 1),
        dilations=dilations,
        pads=_pads(name, layer.padding, kernel, dilations),
        group=layer.groups,
    )


def _pads(
    name: str,
    padding: int | tuple[int, int] | str,
    kernel: tuple[int, int],
    dilations: tuple[int, int],
) -> list[int]:
    """Return the padding in ONNX's order: before each axis, then after each axis."""
    if not isinstance(padding, str):
        return [*pair(name, "padding", padding, 0)] * 2
    if padding == "valid":
        return [0] * 4
    totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    before = [total // 2 for total in totals]
    return before + [total - b for total, b in zip(totals, before, strict=True)]
