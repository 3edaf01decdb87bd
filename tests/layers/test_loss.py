"""The loss objects: what they compute, what waits for backward, and what they refuse."""

import numpy as np
import pytest
import torch
from helpers import array, assert_same_bits, assert_within, rngs, tensor
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.errors import BackwardError, DataError, DtypeError, ShapeError

REDUCTIONS = ["mean", "sum", "none"]
DTYPES = ["float32", "float64"]


def draw(seed, shape=(4, 3)):
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def labels(seed=0):
    return np.random.default_rng(seed).integers(3, size=4)


def cases(reduction="mean"):
    """Return each loss with an input and a target."""
    return [
        (npbn.CrossEntropyLoss(reduction=reduction), draw(0), labels()),
        (npbn.MSELoss(reduction), draw(0), draw(1)),
    ]


def upstream(loss, seed=9):
    """Return an upstream gradient for the terms, or nothing for a reduced loss."""
    return () if type(loss) is float else (draw(seed, loss.shape).astype(loss.dtype),)


def compare(mine, theirs, x, target, dtype, size):
    """Run both; a loss of `size` terms of magnitude up to 100 loses (size + 16) eps of each."""
    leaf = tensor(x, requires_grad=True)
    torch_loss = theirs(leaf, tensor(target))
    loss = mine(x, target)
    grad = upstream(loss)
    torch_loss.backward(*map(tensor, grad))
    bound = (size + 16) * np.finfo(dtype).eps * 100
    scale = size if theirs.reduction == "sum" else 1
    assert_within(loss, array(torch_loss), bound * scale, "loss")
    assert_within(mine.backward(*grad), array(leaf.grad), bound, "gradient")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(rng=rngs(), weighed=st.booleans(), smoothing=st.sampled_from([0.0, 0.2]))
def test_one_cross_entropy_agrees_with_torchs_again_and_again(
    reduction, dtype, rng, weighed, smoothing
):
    weight = rng.uniform(0.5, 2, 3).astype(dtype) if weighed else None
    mine = npbn.CrossEntropyLoss(weight, 1, reduction, smoothing)
    theirs = torch.nn.CrossEntropyLoss(
        tensor(weight), ignore_index=1, reduction=reduction, label_smoothing=smoothing
    )
    for shape in [(3,), (5, 3), (2, 3, 4)]:
        x = rng.normal(scale=3, size=shape).astype(dtype)
        target = np.asarray(rng.integers(3, size=shape[:1] + shape[2:] if shape != (3,) else ()))
        compare(mine, theirs, x, target, dtype, target.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(rng=rngs())
def test_one_mse_agrees_with_torchs_again_and_again(reduction, dtype, rng):
    mine, theirs = npbn.MSELoss(reduction), torch.nn.MSELoss(reduction=reduction)
    for shape in [(), (4,), (5, 3), (2, 3, 4)]:
        x, target = map(np.asarray, rng.normal(size=(2, *shape)).astype(dtype))
        compare(mine, theirs, x, target, dtype, x.size)


@pytest.mark.parametrize(
    ("reduction", "denominators"), [("mean", (2.5, 12.0)), ("sum", (1, 1)), ("none", (1, 1))]
)
def test_the_denominator_is_what_a_mean_was_divided_by_and_1_of_others(reduction, denominators):
    """The weights of the targets that count, 0.5 + 2; the elements."""
    cross_entropy = npbn.CrossEntropyLoss([0.5, 9.0, 2.0], 1, reduction)
    squares = npbn.MSELoss(reduction)
    losses = cross_entropy(draw(0), np.array([0, 2, 1, 1])), squares(draw(0), draw(1))
    assert (cross_entropy.denominator, squares.denominator) == denominators
    for criterion, loss in zip((cross_entropy, squares), losses, strict=True):
        assert np.array_equal(criterion.loss, loss)


def test_repr_is_torchs():
    assert repr(npbn.CrossEntropyLoss()) == repr(torch.nn.CrossEntropyLoss())
    assert repr(npbn.MSELoss()) == repr(torch.nn.MSELoss())


def test_repr_shows_what_is_not_the_default():
    loss = npbn.CrossEntropyLoss([1.0, 2.0], 3, "sum", 0.25)
    expected = "weight=array([1., 2.]), ignore_index=3, reduction='sum', label_smoothing=0.25"
    assert repr(loss) == f"CrossEntropyLoss({expected})"
    assert repr(npbn.MSELoss("none")) == "MSELoss(reduction='none')"


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("which", [0, 1])
def test_writing_over_loss_or_input_after_the_call_changes_no_gradient(which, reduction):
    criterion, x, target = cases(reduction)[which]
    expected = criterion.backward(*upstream(criterion(x, target)))
    loss = criterion(x, target)
    grad = upstream(loss)
    if reduction == "none":
        loss[...] = np.nan
    assert_same_bits(criterion.backward(*grad), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("which", [0, 1])
def test_no_later_call_writes_into_an_earlier_result(which, reduction):
    criterion, x, target = cases(reduction)[which]
    results = []
    for scale in (1.0, 2.0, 3.0):
        loss = criterion(scale * x, target)
        results += [loss, criterion.backward(*upstream(loss))]
        if scale == 1.0:
            kept = [np.copy(result) for result in results]
    for now, then in zip(results[: len(kept)], kept, strict=True):
        assert_same_bits(now, then)


@pytest.mark.parametrize("which", [0, 1])
def test_backward_needs_a_loss_of_its_own(which):
    criterion, x, target = cases()[which]
    for prepare in (lambda: None, lambda: (criterion(x, target), criterion.backward())):
        prepare()
        with pytest.raises(BackwardError, match=f"{type(criterion).__name__}.backward: expected"):
            criterion.backward()


@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_is_of_the_latest_loss(which):
    criterion, x, target = cases()[which]
    criterion(x, target)
    expected = criterion.backward()
    criterion(2 * x, target)
    criterion(x, target)
    assert_same_bits(criterion.backward(), expected)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("reduction", "grad", "error", "fragment"),
    [
        ("mean", np.ones(()), BackwardError, "'mean'"),
        ("sum", np.ones(4), BackwardError, "'sum'"),
        ("none", None, BackwardError, "'none'"),
        ("none", np.ones(5), ShapeError, "(5,)"),
        ("none", np.ones(()), ShapeError, "()"),
    ],
)
def test_a_wrong_upstream_gradient_is_refused_and_the_loss_still_waits(
    which, reduction, grad, error, fragment
):
    criterion, x, target = cases(reduction)[which]
    expected = criterion.backward(*upstream(criterion(x, target)))
    loss = criterion(x, target)
    with pytest.raises(error) as caught:
        criterion.backward(grad)
    assert fragment in str(caught.value)
    assert_same_bits(criterion.backward(*upstream(loss)), expected)


@pytest.mark.parametrize(
    ("which", "x", "target", "error", "fragments"),
    [
        (0, draw(0), np.array([0, 1, 2, 3]), DataError, ["0 to 2", "got 3"]),
        (0, draw(0), np.array([0, 1, -2, 1]), DataError, ["0 to 2", "-100", "got -2"]),
        (0, draw(0), np.zeros(5, int), ShapeError, ["target", "(4,)", "(5,)"]),
        (0, draw(0), np.zeros(4), DtypeError, ["integer", "float64"]),
        (0, draw(0).astype(int), labels(), DtypeError, ["logits", "int64"]),
        (0, np.array(1.0), np.array(0), ShapeError, ["(C,)", "()"]),
        (0, draw(0, (4, 2)), np.zeros(4, int), ShapeError, ["weight", "(2,)", "(3,)"]),
        (1, draw(0), draw(0, (4,)), ShapeError, ["target", "(4, 3)", "(4,)"]),
        (1, draw(0), draw(1).astype("f4"), DtypeError, ["float64", "float32"]),
        (1, draw(0).astype(int), draw(1), DtypeError, ["input", "int64"]),
    ],
)
def test_wrong_arguments_are_refused_and_the_earlier_loss_still_waits(
    which, x, target, error, fragments
):
    criterion, good_x, good_target = cases()[which]
    if which == 0:
        criterion = npbn.CrossEntropyLoss(weight=[0.5, 1.0, 2.0])
    criterion(good_x, good_target)
    expected = criterion.backward()
    criterion(good_x, good_target)
    with pytest.raises(error) as caught:
        criterion(x, target)
    message = str(caught.value)
    assert all(part in message for part in [type(criterion).__name__, *fragments]), message
    assert_same_bits(criterion.backward(), expected)


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (lambda: npbn.CrossEntropyLoss(reduction="max"), ["CrossEntropyLoss", "'max'", "'sum'"]),
        (lambda: npbn.MSELoss("average"), ["MSELoss", "'average'", "'mean'"]),
        (lambda: npbn.CrossEntropyLoss(label_smoothing=2), ["label_smoothing", "[0, 1]", "2"]),
    ],
)
def test_unknown_options_are_refused_when_the_loss_is_made(make, fragments):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert all(part in str(caught.value) for part in fragments), str(caught.value)
