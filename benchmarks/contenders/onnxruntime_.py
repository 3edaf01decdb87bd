"""ONNX Runtime, on a graph of the network written out by hand; it takes in NumPy arrays."""

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks import network
from benchmarks.task import Task

_threads = 1


def set_threads(threads: int) -> None:
    """Limit the sessions that are made from now on."""
    global _threads
    _threads = threads


def predict(problem: network.Problem) -> Task:
    """Return a prediction by a session with all optimisations, which fold BatchNorm."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = _threads
    session = onnxruntime.InferenceSession(
        model(problem), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": problem.x}
    return Task(lambda: session.run(None, feed)[0], lambda logits: {"logits": logits})


def model(problem: network.Problem) -> bytes:
    """Return the network with BatchNorm as an ONNX model."""
    nodes = [
        linear(problem, "fc1", "x", "h1"),
        norm("batch_norm1", "h1", "n1"),
        helper.make_node("Relu", ["n1"], ["a1"]),
        linear(problem, "fc2", "a1", "h2"),
        norm("batch_norm2", "h2", "n2"),
        linear(problem, "fc3", "n2", "logits"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", network.INPUTS), ("logits", network.CLASSES))
    ]
    weights = [numpy_helper.from_array(values, name) for name, values in problem.state.items()]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def linear(problem: network.Problem, name: str, x: str, y: str) -> object:
    """Return a linear layer's node."""
    inputs = [x, f"{name}.weight"]
    inputs += [f"{name}.bias"] if f"{name}.bias" in problem.state else []
    return helper.make_node("Gemm", inputs, [y], transB=1)


def norm(name: str, x: str, y: str) -> object:
    """Return a BatchNorm's node."""
    keys = ("weight", "bias", "running_mean", "running_var")
    inputs = [x, *(f"{name}.{key}" for key in keys)]
    return helper.make_node("BatchNormalization", inputs, [y], epsilon=network.EPS)
