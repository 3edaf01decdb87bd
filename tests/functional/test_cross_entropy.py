"""Cross-entropy against torch, against differences, and by both engines."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import (
    DTYPE_PAIRS,
    LAYOUTS,
    SPECIALS,
    array,
    assert_same_bits,
    assert_within,
    by_both_engines,
    layouts,
    numerical_gradient,
    quantum,
    rngs,
    sprinkle,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npbn
from npbn.errors import DataError, DtypeError, ShapeError
from npbn.functional import cross_entropy, cross_entropy_backward, cross_entropy_forward

pytestmark = pytest.mark.usefixtures("engine")

REDUCTIONS = ["mean", "sum", "none"]


@dataclass
class Problem:
    """The arguments of a cross-entropy, and the upstream gradient of its terms."""

    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None
    grad: np.ndarray
    ignore_index: int
    reduction: str
    label_smoothing: float

    @property
    def options(self):
        return self.ignore_index, self.reduction, self.label_smoothing

    def by_npbn(self, forward=None, backward=None):
        """Return the loss and the gradient of the logits, each by an engine or the one in use."""
        with npbn.using_engine(forward or npbn.get_engine()):
            loss, cache = cross_entropy_forward(
                self.logits, self.target, self.weight, *self.options
            )
        grad = self.grad if self.reduction == "none" else None
        with npbn.using_engine(backward or npbn.get_engine()):
            return loss, cross_entropy_backward(cache, grad)

    def by_torch(self, dtype):
        logits = tensor(self.logits, dtype, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(
            logits,
            tensor(self.target),
            weight=tensor(self.weight, dtype),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        loss.backward(tensor(self.grad, dtype) if self.reduction == "none" else None)
        return array(loss), array(logits.grad)

    def bounds(self, dtype):
        """Bound loss and gradient by the roundings and magnitudes of their terms.

        A term sums C exponentials and loses eps of (largest − smallest logit) + log C before
        it is weighed; M terms and their M weights are summed. A probability is off by
        (C + spread · exp(−spread) + a few) eps at most, that is (C + 16) eps for both sides.
        """
        classes_last = np.moveaxis(self.logits, 0 if self.logits.ndim == 1 else 1, -1)
        classes_last = classes_last.astype(np.float64)
        classes, counted = classes_last.shape[-1], self.target != self.ignore_index
        w = np.ones(classes) if self.weight is None else self.weight.astype(np.float64)
        unit = (classes + self.target.size + 16) * np.finfo(dtype).eps
        w_target = np.where(counted, w[np.where(counted, self.target, 0)], 0)
        weighed = w_target + np.where(counted, self.label_smoothing * w.sum(), 0)
        spread = np.ptp(classes_last, axis=-1) + np.log(classes) + 1
        loss, grad = unit * weighed * spread, unit * weighed
        if self.reduction == "none":
            grad = grad * np.abs(self.grad)
        else:
            loss = loss.sum()
        if self.reduction == "mean" and w_target.sum():
            loss, grad = loss / w_target.sum(), grad / w_target.sum()
        smallest = quantum(dtype)
        if self.logits.ndim > 1:
            grad = np.expand_dims(grad, 1)
        return loss + smallest, np.broadcast_to(grad, self.logits.shape) + smallest


@st.composite
def problems(draw, dtype="float64", scales=(1.0, 30.0, 1e4), ignoring=True, min_side=0):
    rng, classes = draw(rngs()), draw(st.integers(1, 5))
    terms = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=min_side, max_side=4))
    shape = (terms[0], classes, *terms[1:]) if terms else (classes,)
    ignore_index = draw(st.sampled_from([-100, -1, 0, 2, 255]))
    target = np.asarray(rng.integers(classes, size=terms))
    if ignoring:
        target = np.asarray(
            sprinkle(rng, target, [ignore_index], draw(st.sampled_from([0, 0.3, 1])))
        )
    elif 0 <= ignore_index < classes:
        ignore_index = -100
    weight = sprinkle(rng, rng.uniform(0.1, 3, classes), [0.0], 0.1).astype(dtype)
    return Problem(
        logits=(rng.normal(size=shape) * draw(st.sampled_from(scales))).astype(dtype),
        target=target,
        weight=draw(st.sampled_from([None, weight])),
        grad=np.asarray(rng.normal(size=terms)).astype(dtype),
        ignore_index=ignore_index,
        reduction=draw(st.sampled_from(REDUCTIONS)),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])),
    )


@pytest.mark.parametrize(("dtype", "torch_dtype"), DTYPE_PAIRS)
@given(data=st.data())
def test_cross_entropy_and_its_gradient_are_torchs(dtype, torch_dtype, data):
    p = data.draw(problems(dtype))
    (loss, grad), (torch_loss, torch_grad) = p.by_npbn(), p.by_torch(torch_dtype)
    loss_bound, grad_bound = p.bounds(dtype)
    assert type(loss) is (np.ndarray if p.reduction == "none" else float)
    assert grad.dtype == dtype
    assert_within(loss, torch_loss, loss_bound, "loss")
    assert_within(grad, torch_grad, grad_bound, "gradient")


@given(rngs(), problems(ignoring=False, scales=(1.0, 30.0)))
def test_nan_and_infinite_logits_propagate_as_in_torch(rng, p):
    loss_bound, grad_bound = p.bounds("float64")
    p.logits = np.asarray(sprinkle(rng, p.logits))
    (loss, grad), (torch_loss, torch_grad) = p.by_npbn(), p.by_torch("float64")
    # An infinite logit of −∞ only leaves fewer terms; the bounds are of the finite ones.
    assert_within(loss, torch_loss, loss_bound, "loss")
    assert_within(grad, torch_grad, grad_bound, "gradient")


@given(rngs(), problems())
def test_what_stands_where_the_target_is_ignored_counts_for_nothing(rng, p):
    expected_loss, expected_grad = p.by_npbn()
    ignored = np.asarray(p.target == p.ignore_index)
    at_logits = np.broadcast_to(ignored if ignored.ndim == 0 else ignored[:, None], p.logits.shape)
    p.logits = np.where(at_logits, rng.choice(SPECIALS, p.logits.shape), p.logits)
    p.grad = np.where(ignored, np.nan, p.grad)
    loss, grad = p.by_npbn()
    assert_same_bits(loss, expected_loss)
    assert_same_bits(grad, expected_grad)
    np.testing.assert_array_equal(grad[at_logits], 0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_mean_over_targets_of_weight_zero_is_nan_as_in_torch(label_smoothing):
    logits, target, weight = np.array([[1.0, 2.0]]), np.array([1]), np.array([1.0, 0.0])
    p = Problem(logits, target, weight, np.ones(1), -100, "mean", label_smoothing)
    for mine, theirs in zip(p.by_npbn(), p.by_torch("float64"), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5), (0, 3)])
def test_when_all_targets_are_ignored_the_mean_is_nan_and_the_gradient_zero(shape):
    target = np.full(shape[:1] + shape[2:] if len(shape) > 1 else (), -100)
    logits = np.random.default_rng(0).normal(size=shape)
    loss, cache = cross_entropy_forward(logits, target)
    assert np.isnan(loss)
    np.testing.assert_array_equal(cross_entropy_backward(cache), np.zeros(shape))


@given(problems(scales=(1.0,), min_side=1))
def test_the_gradient_is_the_central_differences_of_the_loss(p):
    """h² / 6 of third derivatives below 1, and eps / h of the sum of the terms: below 1e-9."""
    if p.reduction == "mean" and not np.isfinite(p.by_npbn()[0]):
        p.reduction = "sum"  # nothing counts
    step, upstream = 1e-5, p.grad if p.reduction == "none" else 1.0

    def loss(logits):
        return float(np.sum(upstream * cross_entropy(logits, p.target, p.weight, *p.options)))

    _, grad = p.by_npbn()
    terms = (np.abs(upstream) * p.bounds("float64")[0]).sum() / np.finfo(np.float64).eps
    assert_within(grad, numerical_gradient(loss, p.logits, step), 1e-9 * (1 + terms))


@given(layout=layouts, p=problems(min_side=1))
def test_cross_entropy_is_the_same_in_any_memory_layout(layout, p):
    expected = p.by_npbn()
    p.logits = LAYOUTS[layout](p.logits)
    if p.target.ndim:
        p.target, p.grad = LAYOUTS[layout](p.target), LAYOUTS[layout](p.grad)
    for mine, theirs, bound in zip(p.by_npbn(), expected, p.bounds("float64"), strict=True):
        assert_within(mine, theirs, bound)


@pytest.mark.parametrize("target_dtype", [np.int8, np.uint8, np.int32, np.uint64])
@given(p=problems(ignoring=False))
def test_any_integer_dtype_will_do_for_targets(target_dtype, p):
    expected = p.by_npbn()
    p.target = p.target.astype(target_dtype)
    for mine, theirs in zip(p.by_npbn(), expected, strict=True):
        assert_same_bits(mine, theirs)


@given(problems())
def test_cross_entropy_changes_none_of_its_inputs(p):
    arrays = [a for a in (p.logits, p.target, p.weight, p.grad) if a is not None]
    before = [a.copy() for a in arrays]
    results = p.by_npbn()
    for after, old in zip(arrays, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(a, b) for a in results for b in arrays)


@given(problems())
def test_backward_leaves_the_cache_as_it_was(p):
    cache = cross_entropy_forward(p.logits, p.target, p.weight, *p.options)[1]
    arrays = [field for field in cache if isinstance(field, np.ndarray)]
    before = [a.copy() for a in arrays]
    grad = cross_entropy_backward(cache, p.grad if p.reduction == "none" else None)
    for after, old in zip(arrays, before, strict=True):
        assert_same_bits(after, old)
    assert not any(np.shares_memory(grad, a) for a in arrays)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(data=st.data())
def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(dtype, data):
    p = data.draw(problems(dtype, scales=(1.0, 1e4)))
    largest = np.finfo(dtype).max
    p.logits = np.asarray(
        sprinkle(data.draw(rngs()), p.logits, (*SPECIALS, largest, -largest, 1 / largest), 0.4)
    )
    with np.errstate(all="raise"):
        p.by_npbn()


@pytest.mark.parametrize(
    ("change", "error", "fragments"),
    [
        ({"logits": np.ones(())}, ShapeError, ["(C,) or (N, C, ...)", "()"]),
        ({"logits": np.ones((4, 0))}, ShapeError, ["at least one class", "(4, 0)"]),
        ({"logits": np.ones((4, 3), int)}, DtypeError, ["logits", "int64"]),
        ({"target": np.zeros(5, int)}, ShapeError, ["target", "(4,)", "(5,)"]),
        ({"target": np.zeros((4, 1), int)}, ShapeError, ["target", "(4,)", "(4, 1)"]),
        ({"target": np.zeros(4)}, DtypeError, ["integer", "float64"]),
        ({"target": np.zeros(4, bool)}, DtypeError, ["integer", "bool"]),
        ({"target": np.array([0, 3, 1, 2])}, DataError, ["0 to 2", "got 3"]),
        ({"target": np.array([0, 2, -1, 2])}, DataError, ["0 to 2", "-100", "got -1"]),
        ({"weight": np.ones(4)}, ShapeError, ["weight", "(3,)", "(4,)"]),
        ({"weight": np.ones(3, int)}, DtypeError, ["weight", "int64"]),
        ({"reduction": "median"}, ValueError, ["'mean', 'sum' or 'none'", "'median'"]),
        ({"ignore_index": 1.5}, ValueError, ["ignore_index", "integer", "1.5"]),
        ({"ignore_index": None}, ValueError, ["ignore_index", "integer", "None"]),
        ({"ignore_index": 2**63}, ValueError, ["ignore_index", "int64", str(2**63)]),
        ({"ignore_index": -(2**63) - 1}, ValueError, ["int64", str(-(2**63) - 1)]),
        ({"label_smoothing": 1.1}, ValueError, ["[0, 1]", "1.1"]),
        ({"label_smoothing": -0.1}, ValueError, ["[0, 1]", "-0.1"]),
        ({"label_smoothing": np.nan}, ValueError, ["[0, 1]", "nan"]),
    ],
)
def test_wrong_arguments_of_cross_entropy_are_refused(change, error, fragments):
    arguments = {"logits": np.ones((4, 3)), "target": np.zeros(4, int)} | change
    with pytest.raises(error) as caught:
        cross_entropy(**arguments)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


@pytest.mark.parametrize("ignore_index", [-(2**63), 2**63 - 1])
def test_the_ignored_class_may_be_any_int64(ignore_index):
    logits, target = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([1, ignore_index])
    loss = cross_entropy(logits, target, ignore_index=ignore_index)
    assert loss == cross_entropy(logits[:1], target[:1])


@by_both_engines
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(layout=layouts, rng=rngs(), data=st.data())
def test_the_engines_agree_and_take_each_others_caches(dtype, layout, rng, data):
    """Both compute in float64, within its bound of each other, and then round once.

    Where the rounded results differ, it is by one unit in the last place, at most eps.
    """
    scales = (1.0, 30.0) if dtype == "float16" else (1.0, 30.0, 1e4)
    p = data.draw(problems(dtype, scales).filter(lambda p: p.target.ndim))
    loss_bound, grad_bound = p.bounds("float64")
    if data.draw(st.booleans()):
        p.logits = sprinkle(rng, p.logits)
    p.logits, p.grad = LAYOUTS[layout](p.logits), LAYOUTS[layout](p.grad)
    loss, grad = p.by_npbn("numpy", "numpy")
    unit = np.finfo(dtype).eps
    loss_unit = unit if p.reduction == "none" else np.finfo(np.float64).eps
    finite_loss, finite_grad = (
        np.abs(np.nan_to_num(a, nan=0, posinf=0, neginf=0).astype(np.float64)) for a in (loss, grad)
    )
    loss_bound = loss_bound + loss_unit * finite_loss + quantum(dtype)
    grad_bound = grad_bound + unit * finite_grad + quantum(dtype)
    for engines in (("numba", "numba"), ("numpy", "numba"), ("numba", "numpy")):
        other_loss, other_grad = p.by_npbn(*engines)
        assert_within(other_loss, loss, loss_bound, "loss")
        assert_within(other_grad, grad, grad_bound, "gradient")
        assert other_grad.dtype == dtype


def test_terms_of_a_large_batch_are_the_same_for_any_number_of_threads():
    """512 KB of logits are shared out among the threads."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1001, 7, 19)).astype(np.float32)
    target = rng.integers(7, size=(1001, 19))
    p = Problem(logits, target, None, rng.normal(size=target.shape), -100, "none", 0.1)
    threads = npbn.get_num_threads()
    try:
        npbn.set_num_threads(1)
        expected = p.by_npbn()
        for count in (2, 3):
            npbn.set_num_threads(count)
            for mine, theirs in zip(p.by_npbn(), expected, strict=True):
                assert_same_bits(mine, theirs)
    finally:
        npbn.set_num_threads(threads)


def test_a_gradient_beyond_float16_is_infinite_without_a_warning():
    logits, weight = np.zeros((1, 2), np.float16), np.full(2, 100, np.float16)
    _, cache = cross_entropy_forward(logits, np.array([0]), weight, -100, "none", 0.0)
    with np.errstate(all="raise"):
        grad = cross_entropy_backward(cache, np.array([60000], np.float16))
    np.testing.assert_array_equal(grad, np.array([[-np.inf, np.inf]]))
