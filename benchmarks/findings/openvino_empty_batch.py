"""OpenVINO counts an empty batch in training as one of mean 0 and variance 0."""

import numpy as np
import openvino
from onnx import TensorProto, helper

names = ["x", "scale", "B", "mean", "var"]
node = helper.make_node("BatchNormalization", names, ["y", "m", "v"], training_mode=1, momentum=0.5)
shapes = [(None, 1), (1,), (1,), (1,), (1,)]
inputs = [
    helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    for name, shape in zip(names, shapes, strict=True)
]
outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "ymv"]
graph = helper.make_graph([node], "g", inputs, outputs)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
core = openvino.Core()
compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
vectors = [np.full(1, value, np.float32) for value in (1, 0, 8, 4)]
found = compiled([np.zeros((0, 1), np.float32), *vectors])
mean, var = (float(found[output][0]) for output in compiled.outputs[1:])
print(f"running mean 8 and variance 4 should stay after no sample, got {mean:.4g} and {var:.4g}")
print("confirmed" if (mean, var) == (4, 2) else "refuted")
