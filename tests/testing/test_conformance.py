"""The suite passes the right BatchNorms, and tells what the others do wrong."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
import torch
from textbooks import TEXTBOOKS

import npbn
from npbn.testing import (
    Case,
    Implementation,
    Setup,
    Step,
    check_batch_norm,
    class_implementation,
    function_implementation,
    npbn_implementation,
)
from npbn.testing.adapters.torch_nn import implementation as torch_implementation
from npbn.testing.mutants import MUTANTS, TextbookBatchNorm
from npbn.testing.mutants.memory import NormalisesInPlace
from npbn.testing.report import FAILED, NOT_SUPPORTED, PASSED, snippet

pytestmark = pytest.mark.process  # each check has a process of its own

EXAMPLES = max(2, hypothesis.settings.default.max_examples // 20)
LAYERS = [npbn.BatchNorm1d, npbn.BatchNorm2d, npbn.BatchNorm3d]


COMPILING = 300  # seconds that a first call may take on a machine with other load


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("cls", LAYERS)
def test_npbn_is_correct_and_keeps_its_accuracy_contract_under_either_engine(cls):
    report = check_batch_norm(npbn_implementation(cls), examples=EXAMPLES, seconds=COMPILING)
    assert report.accurate, report.table()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.slow
def test_torch_is_correct_in_float32(rank):
    cls = getattr(torch.nn, f"BatchNorm{rank}d")
    report = check_batch_norm(torch_implementation(cls), examples=EXAMPLES)
    assert report.correct, report.table()


class TorchInFloat64:
    """torch's BatchNorm in float64 on float32 data: the second, independent oracle."""

    def __init__(self, setup):
        vectors = ("weight", "bias", "running_mean", "running_var")
        wide = {name: getattr(setup, name) for name in vectors}
        wide = {name: None if v is None else v.astype(np.float64) for name, v in wide.items()}
        setup64 = dataclasses.replace(setup, **wide, dtype=np.dtype(np.float64))
        self.layer = torch_implementation(torch.nn.BatchNorm1d).make(setup64)
        self.dtype = setup.dtype

    def __getattr__(self, name):
        value = getattr(self.layer, name)
        return value if value is None or name == "num_batches_tracked" else value.astype(self.dtype)

    def forward(self, x, training):
        self.x_dtype = x.dtype
        y = self.layer.forward(x.astype(np.float64), training).astype(x.dtype)
        for name in ("running_mean", "running_var"):
            if getattr(self.layer, name) is not None:  # what is stored has the parameters' dtype
                getattr(self.layer, name)[...] = getattr(self, name)
        return y

    def backward(self, grad_output):
        grad_input, *others = self.layer.backward(grad_output.astype(np.float64))
        others = (None if grad is None else grad.astype(self.dtype) for grad in others)
        return grad_input.astype(self.x_dtype), *others


def test_torch_in_float64_keeps_the_contract_on_float32_data():
    missing = ("rank4", "rank5", "bias_alone", "clean_errors", "float64")
    implementation = Implementation(TorchInFloat64, "torch in float64", missing)
    report = check_batch_norm(implementation, examples=EXAMPLES)
    assert report.correct, report.table()
    failed = {result.name for result in report.results if result.contract == FAILED}
    # x · a + (bias − mean · a) in float64 is not the bias to the bit where x is 1e30.
    assert failed <= {"constant channels give the bias"}, report.table()


def test_torch_in_float32_breaks_the_contract_and_the_report_shows_where():
    report = check_batch_norm(torch_implementation(torch.nn.BatchNorm1d), examples=5, only="1e6")
    (result,) = report.results
    assert (result.contract, report.correct, report.accurate) == ("failed", True, False)
    assert max(result.worst.values()) > 8  # npbn's is at most 4
    assert "should be" in result.problem
    assert "Step(" in result.example


@pytest.mark.parametrize("cls", [TextbookBatchNorm, *TEXTBOOKS])
def test_textbooks_are_correct(cls):
    report = check_batch_norm(class_implementation(cls), examples=EXAMPLES)
    assert report.correct, report.table()


# -- implementations that misbehave ---------------------------------------------------------


def odd(forward=None, backward=None):
    """Return a class whose passes are replaced by these functions."""

    members = {}
    if forward is not None:
        members["forward"] = lambda self, x, training: forward(x)
    if backward is not None:
        members["backward"] = lambda self, grad_output: backward(grad_output)
    Odd = type("Odd", (TextbookBatchNorm,), members)
    return class_implementation(Odd)


def one_over_zero(_):
    return 1 // 0


@pytest.mark.parametrize(
    ("implementation", "words"),
    [
        (odd(one_over_zero), "raised ZeroDivisionError"),
        (odd(lambda x: None), "should be an ndarray, got None"),
        (odd(lambda x: x[:1]), "should have shape"),
        (odd(lambda x: x.astype(np.float16)), "should have dtype float32, got float16"),
        (odd(lambda x: x * np.float32(np.nan)), "is nan, should be"),
    ],
)
def test_what_a_forward_pass_does_wrong_is_told(implementation, words):
    report = check_batch_norm(implementation, examples=3, only="output in training")
    assert not report.correct
    assert words in report.results[0].problem


@pytest.mark.parametrize(
    ("backward", "words"),
    [
        (one_over_zero, "raised ZeroDivisionError"),
        (lambda g: g, "no tuple of three: ndarray"),
        (lambda g: None, "no tuple of three: None"),
        (lambda g: (g[1:], None, None), "should have shape"),
    ],
)
def test_what_a_backward_pass_does_wrong_is_told(backward, words):
    report = check_batch_norm(odd(backward=backward), examples=3, only="gradient of the input, tr")
    assert not report.correct
    assert words in report.results[0].problem


def test_what_is_not_supported_is_neither_passed_nor_failed():
    class InferenceOnly:
        unsupported = ("training", "backward", "running_statistics", "counter", "no_affine")
        unsupported = (*unsupported, "bias_alone", "weight_alone", "untracked", "float16", "rank5")

        def __init__(self, num_features, eps, momentum):
            self.eps = eps

        def forward(self, x, training):
            assert not training
            vectors = (self.running_mean, self.running_var, self.weight, self.bias)
            mean, var, weight, bias = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in vectors)
            return (x - mean) / np.sqrt(var + self.eps) * weight + bias

    report = check_batch_norm(class_implementation(InferenceOnly), examples=5)
    assert report.correct, report.table()
    by_name = {result.name: result.correct for result in report.results}
    assert list(by_name.values()).count(PASSED) >= 20
    assert by_name["output in training"] == NOT_SUPPORTED
    # Memory, layouts and NaN are looked at without training too.
    for name in ("inputs are left unchanged", "results are the caller's", "NaN and infinity reach"):
        assert all(v == PASSED for key, v in by_name.items() if name in key)
    assert by_name["any memory layout, rank 2 or higher"] == PASSED


def test_a_plain_function_is_checked_without_its_backward_pass():
    target = function_implementation(npbn.functional.batch_norm)
    report = check_batch_norm(target, examples=5, seconds=COMPILING)  # by whichever engine
    assert report.accurate, report.table()
    by_name = {result.name: result.correct for result in report.results}
    assert by_name["gradient of the input, training"] == "not supported"
    assert by_name["running statistics"] == "passed"


def test_unknown_capabilities_and_behaviours_are_refused():
    with pytest.raises(ValueError, match="flying"):
        class_implementation(TextbookBatchNorm, ("flying",))
    with pytest.raises(ValueError, match="no behaviour contains 'flying'"):
        check_batch_norm(class_implementation(TextbookBatchNorm), only="flying")


# -- the report -------------------------------------------------------------------------------


def test_the_report_is_valid_json_and_repeats_itself():
    implementation = class_implementation(MUTANTS[0])
    options = {"examples": 2, "seed": 7, "only": "in"}
    first, second = (check_batch_norm(implementation, **options) for _ in range(2))
    assert first == second
    content = json.loads(first.to_json())
    assert content["correct"] is False
    assert content["accuracy_contract"] is False
    assert {behaviour["correct"] for behaviour in content["behaviours"]} >= {"failed", "passed"}


def test_the_snippet_builds_the_case():
    rng = np.random.default_rng(0)
    setup = Setup(2, weight=np.float32([1, -np.inf]), running_mean=np.float32([0.1, np.nan]))
    case = Case(setup, (Step(rng.normal(size=(2, 2, 1)).astype(np.float32), True),))
    names = {}
    exec(snippet(case), names)
    rebuilt = names["case"]
    np.testing.assert_array_equal(rebuilt.steps[0].x, case.steps[0].x)
    np.testing.assert_array_equal(rebuilt.setup.weight, setup.weight)
    np.testing.assert_array_equal(rebuilt.setup.running_mean, setup.running_mean)
    assert rebuilt.setup.bias is None


def test_errors_of_outputs_gradients_and_statistics_are_reported_apart():
    implementation = npbn_implementation(npbn.BatchNorm1d)
    report = check_batch_norm(implementation, examples=10, only="three training steps")
    assert list(report.worst) == ["y", "gradients", "statistics"]
    assert 0 < report.worst["y"] <= 1
    assert 0 < report.worst["gradients"] <= 4
    assert 0 < report.worst["statistics"] <= 2
    assert report.results[0].problem is None


# -- what is not wrong --------------------------------------------------------------------------


class NanOfNothing(TextbookBatchNorm):
    """Lets the NaN mean of an empty batch into the running statistics."""

    def track(self, values):
        super().track(values)
        if self.count(values) == 0:
            mean = self.mean(values)
            self.update(mean, self.var(values, mean))


def test_an_empty_batch_that_gives_nan_is_a_remark():
    report = check_batch_norm(class_implementation(NanOfNothing), examples=5, only="empty batch")
    assert report.correct
    assert report.results[0].remark == "an empty batch makes running_mean and running_var NaN"
    assert f"remark: {report.results[0].remark}" in report.table()


class RoundedOnTheWay(TextbookBatchNorm):
    """Rounds x̂ and its products to float16 where the input is float16."""

    def affine(self, x_hat):
        if not self.half:
            return super().affine(x_hat)
        y = x_hat.astype(np.float16)
        along = (-1, *(1,) * (y.ndim - 2))
        if self.weight is not None:
            y = y * self.weight.astype(np.float16).reshape(along)
        return y if self.bias is None else y + self.bias.astype(np.float16).reshape(along)

    def working(self, x):
        self.half = x.dtype == np.float16
        return super().working(x)


def test_rounding_to_float16_on_the_way_is_correct_and_breaks_the_contract():
    target = class_implementation(RoundedOnTheWay)
    report = check_batch_norm(target, examples=20, only="float16")
    assert report.correct, report.table()
    assert not report.accurate
    assert 0.5 < report.worst["y"] < 4  # in eps of float16, which is what is judged


def test_what_is_held_in_float32_by_specification_can_be_said():
    class InFloat32(TextbookBatchNorm):
        def rstd(self, var):
            return 1 / np.sqrt(var + float(np.float32(self.eps)))

        def factor(self):
            return float(np.float32(super().factor()))

    for unsupported, correct in (((), False), (("double_scalars", "momentum_none"), True)):
        target = class_implementation(InFloat32, unsupported)
        report = check_batch_norm(target, examples=5, only="float64")
        assert report.correct == correct, report.table()


def test_a_wrong_write_is_told_as_that_and_no_number_is_wrong():
    target = class_implementation(NormalisesInPlace)
    report = check_batch_norm(target, examples=5)
    failed = {result.name: result for result in report.results if result.correct == FAILED}
    assert "forward wrote into its input" in failed.pop("inputs are left unchanged").problem
    # Arrays that may not be written to are handed over there.
    assert all("memory layout" in name for name in failed)
