"""The libraries that are installed: a few steps of each that are right up to rounding."""

import os

import numpy as np
import pytest

from npbn.testing.case import Case, Setup, Step
from npbn.testing.compare import follow
from npbn.testing.names import PASSES, RUNNING
from npbn.testing.targets import adapt, load_target

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


# What hands over the order of the axes; the others make contiguous copies of what they are given.
KEEP_THE_ORDER = ("torch", "mygrad", "keras")


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
    errors = follow(target, steps, (*PASSES, *RUNNING), "correct")
    assert "y" in errors.correct
    assert ("grad_input" in errors.correct) == ("backward" not in target.unsupported)
    assert ("running_var" in errors.correct) == ("running_statistics" not in target.unsupported)


def test_layouts_that_cannot_reach_a_library_are_not_claimed(target):
    assert "vector_layouts" in target.unsupported
    keeps = target.name.startswith(KEEP_THE_ORDER) and "on jax" not in target.name
    assert ("layouts" not in target.unsupported) == keeps


@pytest.mark.parametrize(
    ("layout", "strides"),
    [("strided", (6, 2)), ("Fortran order", (1, 4)), ("zero strides", (0, 1))],
)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_torch_is_given_inputs_in_their_layout(layout, strides):
    torch = pytest.importorskip("torch")
    seen = []

    class Mine(torch.nn.BatchNorm1d):
        def forward(self, x):
            seen.append(x.stride())
            return super().forward(x)

    ones = np.ones(3, np.float32)
    setup = Setup(3, 2.0**-10, 0.25, ones, ones, ones, ones)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x = np.broadcast_to(x[:1], x.shape) if layout == "zero strides" else x
    steps = (Step(x, True, x + 1, layout, layout), Step(x, False, x + 1, layout, layout))
    follow(adapt(Mine), Case(setup, steps), (*PASSES, *RUNNING), "correct")
    assert seen == [strides] * 2


RANKS = {"1d": {"rank2", "rank3"}, "2d": {"rank4"}, "3d": {"rank5"}}


@pytest.mark.parametrize("rank", RANKS)
def test_a_class_that_derives_from_one_of_torch_takes_its_ranks(rank):
    torch = pytest.importorskip("torch")
    mine = type("Mine", (type("Between", (getattr(torch.nn, f"BatchNorm{rank}"),), {}),), {})
    unsupported = adapt(mine).unsupported
    assert unsupported & set().union(*RANKS.values()) == set().union(*RANKS.values()) - RANKS[rank]


def test_a_class_that_derives_from_one_of_torch_needs_no_argument_bias():
    torch = pytest.importorskip("torch")

    class Mine(torch.nn.BatchNorm1d):
        def __init__(self, num_features, eps=1e-5, momentum=0.1, **options):
            if "bias" in options:  # as torch before 2.13
                raise TypeError("unexpected keyword argument 'bias'")
            super().__init__(num_features, eps, momentum, **options)

    mine = adapt(Mine)
    assert "weight_alone" in mine.unsupported
    assert "weight_alone" not in adapt(torch.nn.BatchNorm1d).unsupported
    follow(mine, mine.adapt(case(0)), (*PASSES, *RUNNING), "correct")
    ones = np.ones(3, np.float32)
    assert mine.make(Setup(3, running_mean=ones, running_var=ones)).weight is None
