"""The libraries that are installed: a few steps of each that are right up to rounding."""

import os

import numpy as np
import pytest

from npbn.testing.case import Case, Setup, Step
from npbn.testing.compare import GRADIENTS, RUNNING, follow
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
    "keras.layers:BatchNormalization": "keras",
    "tinygrad.nn:BatchNorm": "tinygrad",
    "paddle.nn:BatchNorm2D": "paddle",
    "mygrad.nnet.layers:batchnorm": "mygrad",
    "onnx.reference:ReferenceEvaluator": "onnx",
    "onnxruntime:InferenceSession": "onnxruntime",
    "openvino:Core": "openvino",
}


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    pytest.importorskip(TARGETS[request.param])
    return load_target(request.param)


def case(seed):
    """Draw two steps of training, of other shapes, and one of evaluation after new weights."""
    rng = np.random.default_rng(seed)

    def setup():
        vectors = rng.uniform(0.5, 2, (4, 3)).astype(np.float32) * rng.choice([-1, 1], (4, 1))
        weight, bias, mean, var = vectors.astype(np.float32)
        return Setup(3, 2.0**-10, 0.25, weight, bias, mean, abs(var))

    def step(size, training, load=None):
        x, grad = rng.normal(1, 2, (2, size, 3)).astype(np.float32)
        return Step(x, training, grad, load=load)

    return Case(setup(), (step(4, True), step(7, True), step(5, False, setup())))


@pytest.mark.filterwarnings("ignore")  # the libraries'
@pytest.mark.parametrize("seed", range(3))
def test_right_up_to_rounding(target, seed):
    steps = target.adapt(case(seed))
    if "reload" in target.unsupported:
        steps = Case(steps.setup, steps.steps[:2])
    errors = follow(target, steps, ("y", *GRADIENTS, *RUNNING), "correct")
    assert "y" in errors.correct
    assert ("grad_input" in errors.correct) == ("backward" not in target.unsupported)
    assert ("running_var" in errors.correct) == ("running_statistics" not in target.unsupported)
