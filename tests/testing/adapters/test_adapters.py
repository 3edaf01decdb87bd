"""The libraries that are installed, each by a few behaviours that it is known to have."""

import pytest

from npbn.testing import check_batch_norm
from npbn.testing.targets import load_target

TARGETS = {
    "torch.nn:BatchNorm1d": "torch",
    "torch.nn:BatchNorm2d": "torch",
    "torch.nn:BatchNorm3d": "torch",
    "torch.nn:SyncBatchNorm": "torch",
    "torch.nn.functional:batch_norm": "torch",
    "flax.linen:BatchNorm": "flax",
    "flax.nnx:BatchNorm": "flax",
    "haiku:BatchNorm": "haiku",
    "equinox.nn:BatchNorm": "equinox",
    "tinygrad.nn:BatchNorm": "tinygrad",
    "paddle.nn:BatchNorm2D": "paddle",
    "mygrad.nnet.layers:batchnorm": "mygrad",
    "onnx.reference:ReferenceEvaluator": "onnx",
    "onnxruntime:InferenceSession": "onnxruntime",
    "openvino:Core": "openvino",
}


@pytest.fixture(params=TARGETS)
def target(request):
    pytest.importorskip(TARGETS[request.param])
    return load_target(request.param)


@pytest.mark.filterwarnings("ignore")  # the libraries'
@pytest.mark.parametrize("behaviour", ["output in", "running statistics", "gradient of the"])
def test_right_up_to_rounding(target, behaviour):
    report = check_batch_norm(target, examples=2, only=behaviour)
    assert report.correct, report.table()
