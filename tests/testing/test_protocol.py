"""How a case is made to fit what an implementation takes."""

import numpy as np
import pytest

import npbn
from npbn.testing import CAPABILITIES, Case, Implementation, Setup, Step
from npbn.testing.targets import adapt
from npbn.testing.textbook import TextbookBatchNorm

RANKS = {f"rank{rank}" for rank in (2, 3, 4, 5)}


def adapted(shape, *ranks, unsupported=(), training=True):
    """Return the step of this shape as an implementation of these ranks takes it."""
    lacking = RANKS - {f"rank{rank}" for rank in ranks}
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    case = Case(Setup(shape[1]), (Step(x, training, -x, "strided"),))
    return x, Implementation(None, "", (*lacking, *unsupported)).adapt(case).steps[0]


@pytest.mark.parametrize(
    ("shape", "ranks", "expected"),
    [
        ((4, 3), (2, 3), (4, 3)),
        ((4, 3), (4,), (4, 3, 1, 1)),
        ((4, 3, 2), (2, 4), (4, 3, 2, 1)),
        ((4, 3, 2, 5), (2, 3), (4, 3, 10)),
        ((4, 3, 2, 5), (2,), (40, 3)),
        ((4, 3, 2, 5, 2), (4,), (4, 3, 2, 10)),
        ((0, 3, 4, 1), (3,), (0, 3, 4)),
        ((2, 3, 0), (2,), (0, 3)),
    ],
)
def test_the_rank_is_one_that_is_taken_and_channels_keep_their_values(shape, ranks, expected):
    x, step = adapted(shape, *ranks)
    assert step.x.shape == step.grad_output.shape == expected
    assert step.layout == "strided"
    for c in range(shape[1]):
        np.testing.assert_array_equal(np.sort(step.x[:, c], None), np.sort(x[:, c], None))
        np.testing.assert_array_equal(step.grad_output[:, c], -step.x[:, c])


@pytest.mark.parametrize(
    ("unsupported", "asked", "training", "has_grad"),
    [
        ((), True, True, True),
        (("training",), True, False, True),
        (("evaluation",), False, True, True),
        (("backward",), True, True, False),
        (("eval_backward",), False, False, False),
        (("eval_backward",), True, True, True),
        (("training", "eval_backward"), True, False, False),
    ],
)
def test_steps_are_of_a_mode_that_there_is(unsupported, asked, training, has_grad):
    _, step = adapted((4, 3), 2, unsupported=unsupported, training=asked)
    assert step.training == training
    assert (step.grad_output is not None) == has_grad


@pytest.mark.parametrize("layout", ["strided", "negative strides"])
@pytest.mark.parametrize("cls", [npbn.BatchNorm1d, TextbookBatchNorm])
def test_weights_and_statistics_reach_the_implementation_in_their_layout(cls, layout):
    ones = np.ones(3, np.float32)
    implementation = adapt(cls)
    assert "vector_layouts" not in implementation.unsupported
    layer = implementation.make(Setup(3, 1e-5, 0.1, ones, ones, ones, ones, layout=layout))
    held = getattr(layer, "module", layer)
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = getattr(held, name)
        values = getattr(values, "data", values) if cls is npbn.BatchNorm1d else values
        assert np.asarray(values).strides == (8 if layout == "strided" else -4,)


def test_what_a_convention_does_not_have_is_not_asked_for():
    assert not Implementation(None, "").unsupported
    keras = Implementation(None, "", ("rank5",), "keras")
    assert keras.unsupported == {"rank5", "counter", "momentum_none", "errors", "clean_errors"}
    assert keras.unsupported <= CAPABILITIES.keys()
    for bad in ({"unsupported": ("flying",)}, {"convention": "caffe"}):
        with pytest.raises(ValueError, match="expected"):
            Implementation(None, "", **bad)
