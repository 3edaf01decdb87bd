"""A BatchNorm of another convention is right by it; a report that was not given it names it."""

import os

import pytest

from npbn.testing import check_batch_norm, class_implementation
from npbn.testing.conventions import CONVENTIONS
from npbn.testing.report import FAILED, NOT_SUPPORTED
from npbn.testing.textbook import TextbookBatchNorm

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="classes of this file: no fork"),
]


def textbook_of(convention):
    """Return the textbook as a framework of this convention would have it."""

    class Follows(TextbookBatchNorm):
        waiting = None

        def factor(self):
            return convention.weight_of_new(self.momentum)

        def refuse(self, x, training):
            pass

        def stored_var(self, var, values):
            return var if convention.stores == "biased" else super().stored_var(var, values)

        def update(self, mean, var):
            if convention.moves_in == "forward":
                super().update(mean, var)
            else:
                self.waiting = mean, var

        def backward(self, grad_output):
            if convention.moves_in == "backward" and self.cache.by_batch and self.waiting:
                super().update(*self.waiting)
                self.waiting = None
            return super().backward(grad_output)

    return Follows


OTHERS = sorted(set(CONVENTIONS) - {"pytorch"})


@pytest.mark.parametrize("name", OTHERS)
def test_what_follows_a_convention_is_right_by_it(name):
    target = class_implementation(textbook_of(CONVENTIONS[name]))
    report = check_batch_norm(target, examples=5, convention=name)
    assert report.correct, report.table()
    assert report.convention == name
    assert f"convention {name}" in report.table()
    by_name = {result.name: result.correct for result in report.results}
    for absent in ("num_batches_tracked", "momentum None averages all batches"):
        assert by_name[absent] == NOT_SUPPORTED
    assert by_name["one value a channel is refused"] == NOT_SUPPORTED


@pytest.mark.parametrize("name", sorted(set(OTHERS) - {"cudnn"}))
def test_without_it_the_report_says_which_convention_it_is(name):
    target = class_implementation(textbook_of(CONVENTIONS[name]))
    report = check_batch_norm(target, examples=5, only="running statistics")
    assert report.status == 1
    assert f"{name}" in report.explanation
    assert "--convention" in report.explanation
    assert report.explanation in report.table()


@pytest.mark.parametrize(
    ("convention", "words"),
    [
        ("keras", "takes momentum for the weight of the old value"),
        ("keras", "stores the biased variance"),
        ("mxnet", "moves the running statistics in backward"),
    ],
)
def test_the_explanation_says_what_differs(convention, words):
    target = class_implementation(textbook_of(CONVENTIONS[convention]))
    assert words in check_batch_norm(target, examples=5, only="running statistics").explanation


def test_a_mixture_that_no_framework_has_is_explained_too():
    class Biased(TextbookBatchNorm):
        def stored_var(self, var, values):
            return var

    report = check_batch_norm(Biased, examples=5, only="running statistics")
    assert report.explanation.startswith("it stores the biased variance, as onnx, keras, flax")
    assert "--convention" not in report.explanation


def test_what_no_convention_explains_is_not_explained():
    class Wrong(TextbookBatchNorm):
        def update(self, mean, var):
            super().update(mean, 2 * var)

    report = check_batch_norm(Wrong, examples=5, only="running statistics")
    assert report.status == 1
    assert report.explanation is None


def test_wrong_statistics_are_reported_where_they_are_the_subject_alone():
    target = class_implementation(textbook_of(CONVENTIONS["keras"]))
    report = check_batch_norm(target, examples=5)
    failed = [result.name for result in report.results if result.correct == FAILED]
    refusals = {"one value a channel is refused", "refusals change nothing"}
    rest = set(failed) - refusals - {"momentum None averages all batches"}
    assert rest == {
        "running statistics",
        "running statistics in float64",
        "momentum 0, 1 and outside",
    }


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="expected one of pytorch, onnx"):
        check_batch_norm("npbn:BatchNorm1d", convention="caffe")
