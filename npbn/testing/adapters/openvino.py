"""OpenVINO, which reads ONNX: ``openvino:Core``; on the CPU."""

import numpy as np
import onnx
import openvino

from npbn.testing.adapters import onnx_model
from npbn.testing.protocol import Implementation


def _run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    found = compiled(feed)
    return [np.array(found[output]) for output in compiled.outputs]


def implementation(target: object) -> Implementation:
    """Check OpenVINO."""
    # float16 input with float32 parameters is an error when the model is read
    return onnx_model.runtime(_run, "openvino.Core", ("float16",))
