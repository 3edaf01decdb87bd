"""What the adapters for ONNX share: a model with one BatchNormalization, and a step through it.

ONNX has BatchNormalization in both modes, but no gradient; weight and bias are always there,
and epsilon and momentum are float32.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from npbn.testing.case import Setup
from npbn.testing.protocol import Gradients, Implementation

Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], list[np.ndarray]]

OPSET = 15  # of BatchNormalization's last version
MISSING = (
    "backward",
    "eval_backward",
    "no_affine",
    "weight_alone",
    "bias_alone",
    "untracked",
    "double_scalars",
    "layouts",  # a runtime is given contiguous arrays
    "vector_layouts",
)
VECTORS = {"weight": "scale", "bias": "B", "running_mean": "input_mean", "running_var": "input_var"}
RUNNING = ("output_mean", "output_var")


def plain_model() -> onnx.ModelProto:
    """Return a model that is one BatchNormalization of x, of any shape and dtype."""
    node = helper.make_node("BatchNormalization", ["x", *VECTORS.values()], ["y"])
    ends = [helper.make_empty_tensor_value_info(name) for name in ("x", "y")]
    graph = helper.make_graph([node], "batch_norm", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def batch_norm_node(model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the model's one BatchNormalization; ValueError if there are none or several."""
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if len(nodes) != 1:
        kinds = ", ".join(sorted({node.op_type for node in model.graph.node})) or "no nodes"
        raise ValueError(f"expected one BatchNormalization, got {len(nodes)} (it has {kinds})")
    node: onnx.NodeProto = nodes[0]
    return node


def filled(model: onnx.ModelProto, setup: Setup, training: bool, x: np.ndarray) -> onnx.ModelProto:
    """Return a copy of the model with the values of `setup`, for an input like `x`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, node = copy.graph, batch_norm_node(copy)
    kept = [each for each in node.attribute if each.name not in ("epsilon", "momentum")]
    kept = [each for each in kept if each.name != "training_mode"]
    scalars = {"epsilon": setup.eps, "momentum": setup.momentum, "training_mode": int(training)}
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in scalars.items())
    for place, name in enumerate(VECTORS, 1):
        node.input[place] = f"npbn.{name}"
        graph.initializer.append(numpy_helper.from_array(getattr(setup, name), f"npbn.{name}"))
    del node.output[1:], graph.input[1:], graph.output[1:]
    node.output.extend(RUNNING if training else ())
    graph.output.extend(_value(name, setup.dtype) for name in node.output[1:])
    # The number of axes has to be known to OpenVINO, and the channels.
    shape = [None, setup.num_features, *(None,) * (x.ndim - 2)]
    graph.input[0].CopyFrom(_value(graph.input[0].name, x.dtype, shape))
    graph.output[0].CopyFrom(_value(graph.output[0].name, x.dtype))
    return copy


def _value(name: str, dtype: np.dtype, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


class _Layer:
    num_batches_tracked = None

    def __init__(self, run: Run, model: onnx.ModelProto, setup: Setup):
        self.run, self.model = run, model
        self.load(setup)

    def load(self, setup: Setup) -> None:
        self.setup = setup
        self.running_mean, self.running_var = setup.running_mean, setup.running_var

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        mean, var = self.running_mean, self.running_var
        setup = replace(self.setup, running_mean=mean, running_var=var)
        model = filled(self.model, setup, training, x)
        feed = {model.graph.input[0].name: np.ascontiguousarray(x)}
        y, *moved = self.run(model, feed)
        if moved:
            self.running_mean, self.running_var = moved
        return y

    def backward(self, grad_output: np.ndarray) -> Gradients:
        raise TypeError("a model has no backward pass")


def runtime(run: Run, name: str, missing: tuple[str, ...] = ()) -> Implementation:
    """Check how a runtime computes BatchNormalization.

    Parameters
    ----------
    run : callable
        (model, {name: input}) to a list of outputs.
    name : str
    missing : tuple of str
        Capabilities that it lacks beside those that the format does.
    """
    model = plain_model()
    return Implementation(
        lambda setup: _Layer(run, model, setup), name, (*MISSING, *missing), "onnx"
    )


def model_file(run: Run, name: str, path: str) -> Implementation:
    """Check a runtime on a model of your own, which may have more nodes than BatchNormalization.

    Each case sets the node's vectors and attributes. The first input and output of the graph are
    x and y; their rank and dtype are what the model declares.

    Raises
    ------
    ValueError
        If there is no such file, it is no model, or it has no or several BatchNormalizations.
    """
    model = onnx.load(Path(path))
    node = batch_norm_node(model)
    declared = model.graph.input[0].type.tensor_type
    missing = set()
    if declared.HasField("shape"):
        missing |= {f"rank{rank}" for rank in (2, 3, 4, 5) if rank != len(declared.shape.dim)}
    if declared.elem_type:
        dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type).name
        missing |= {"float16", "float64"} - {dtype}
    if not any(each.name == "training_mode" and each.i for each in node.attribute):
        missing |= {"training", "running_statistics"}
    return Implementation(
        lambda setup: _Layer(run, model, setup),
        f"{Path(path).name}, run by {name}",
        (*MISSING, *sorted(missing)),
        "onnx",
    )
