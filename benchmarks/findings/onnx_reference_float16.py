"""ONNX's reference evaluator overflows on float16 in training.

The variance of values of ±300 is 90000, beyond the largest float16.
"""

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

names = ["x", "scale", "B", "mean", "var"]
node = helper.make_node("BatchNormalization", names, ["y", "m", "v"], training_mode=1)
types = [TensorProto.FLOAT16] + 4 * [TensorProto.FLOAT]
inputs = [helper.make_tensor_value_info(*pair, None) for pair in zip(names, types, strict=True)]
outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)]
graph = helper.make_graph([node], "g", inputs, outputs)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
values = [np.array([[300], [-300]], np.float16), one, zero, zero, one]
y = ReferenceEvaluator(model).run(None, dict(zip(names, values, strict=True)))[0]
print(f"the two values are 1 and -1, got {y.ravel()}")
print("refuted" if np.allclose(y.ravel(), [1, -1]) else "confirmed")
