"""ONNX's reference evaluator: ``onnx.reference:ReferenceEvaluator``, ``onnx:model.onnx``."""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from npbn.testing.adapters import onnx_model
from npbn.testing.protocol import Implementation

NAME = "onnx.reference.ReferenceEvaluator"


def _run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(ReferenceEvaluator(model).run(None, feed))


def implementation(target: object) -> Implementation:
    """Check the reference evaluator."""
    return onnx_model.runtime(_run, NAME)


def model_implementation(path: str) -> Implementation:
    """Check the reference evaluator on a model of your own."""
    return onnx_model.model_file(_run, NAME, path)
