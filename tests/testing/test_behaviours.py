"""Behaviours on implementations that lack a mode, or whose second backward pass is odd."""

import contextlib

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase

from npbn.testing import care
from npbn.testing.behaviours import BEHAVIOURS
from npbn.testing.case import Case, Setup, Step
from npbn.testing.compare import ConformanceError, Remark, follow
from npbn.testing.protocol import class_implementation
from npbn.testing.textbook import TextbookBatchNorm

ONES = np.ones(2, np.float32)
SETUP = Setup(2, 2.0**-10, 0.25, ONES, ONES, ONES, ONES)


def step(training=True):
    x, grad = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    return Step(x, training, grad)


def without(*missing):
    class Without(TextbookBatchNorm):
        unsupported = missing

        def forward(self, x, training):
            assert ("training" if training else "evaluation") not in missing
            return super().forward(x, training)

    return class_implementation(Without)


def try_one(behaviour, implementation):
    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=1,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(behaviour.cases)
    def attempt(case):
        with contextlib.suppress(Remark):
            behaviour.run(implementation, case, "correct")

    attempt()


@pytest.mark.parametrize("missing", ["training", "evaluation"])
def test_a_mode_that_is_not_offered_is_not_called(missing):
    implementation = without(missing)
    tried = [b for b in BEHAVIOURS if not b.lacks(implementation) and b.share == 1]
    assert len(tried) > 25
    for behaviour in tried:
        try_one(behaviour, implementation)


def test_without_any_mode_there_is_nothing_to_check():
    implementation = without("training", "evaluation")
    for behaviour in BEHAVIOURS:
        assert {"training", "evaluation"} <= set(behaviour.lacks(implementation))


def test_the_counter_is_followed_where_running_statistics_are_not_offered():
    implementation = without("running_statistics")
    follow(implementation, Case(SETUP, (step(), step())), ("num_batches_tracked",), "correct")


def refuses(layer, gradients):
    raise RuntimeError("backward was called twice")


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (lambda layer, gradients: gradients, None),
        (refuses, None),
        (lambda layer, gradients: (None, None, None), "grad_input of a second .* it is None"),
        (lambda layer, gradients: (*gradients[:2], None), "grad_bias of a second .* it is None"),
        (lambda layer, gradients: None, "no tuple of three: None"),
        (lambda layer, gradients: (2 * gradients[0], *gradients[1:]), "grad_input of a second"),
    ],
)
def test_a_second_backward_pass_is_an_error_or_gives_the_gradients(second, problem):
    class Odd(TextbookBatchNorm):
        calls = 0

        def backward(self, grad_output):
            self.calls += 1
            gradients = super().backward(grad_output)
            return second(self, gradients) if self.calls == 2 else gradients

    implementation, case = class_implementation(Odd), Case(SETUP, (step(),))
    if problem is None:
        care.backward_twice(implementation, case)
    else:
        with pytest.raises(ConformanceError, match=problem):
            care.backward_twice(implementation, case)
