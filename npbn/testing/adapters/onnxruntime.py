"""ONNX Runtime: ``onnxruntime:InferenceSession``, ``model.onnx``; on the CPU."""

import numpy as np
import onnx
import onnxruntime

from npbn.testing.adapters import onnx_model
from npbn.testing.protocol import Implementation

NAME = "onnxruntime.InferenceSession"


def _run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised too
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[np.ndarray] = session.run(None, feed)
    return outputs


def implementation(target: object) -> Implementation:
    """Check ONNX Runtime."""
    return onnx_model.runtime(_run, NAME)


def model_implementation(path: str) -> Implementation:
    """Check ONNX Runtime on a model of your own."""
    return onnx_model.model_file(_run, NAME, path)
