"""Replays: what they say of right and of wrong implementations."""

import math
import re

import numpy as np
import pytest
import torch
from plain_batch_norm import Biased, Plain, broken

import npbn
from npbn.testing.adapters.torch_nn import implementation as torch_implementation
from npbn.testing.export import replay_cases
from npbn.testing.npbn_modules import npbn_implementation
from npbn.testing.protocol import (
    CAPABILITIES,
    class_implementation,
    function_implementation,
)


def statuses(results, measure):
    return {getattr(result, measure).status for result in results}


@pytest.mark.slow
def test_npbn_passes_where_it_is_supported(exported, index):
    results = replay_cases(exported, npbn_implementation(npbn.BatchNorm1d))
    assert len(results) == len(index["cases"])
    for case, result in zip(index["cases"], results, strict=True):
        supported = len(case["shape"]) in (2, 3)
        assert result.contract.status == ("passed" if supported else "not supported"), result
        expected = {"passed", "not measured"} if supported else {"not supported"}
        assert result.correct.status in expected, result


@pytest.mark.slow
def test_a_plain_implementation_passes_in_every_rank(index, right):
    assert [result for result in right if result.correct.status == "failed"] == []
    for case, result in zip(index["cases"], right, strict=True):
        if case["dtype"] != "float64":
            assert result.contract.status == "passed", result


@pytest.mark.slow
@pytest.mark.parametrize("cls", [torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d])
def test_torch_is_correct_but_its_float32_does_not_hold_the_contract(exported, index, cls):
    results = replay_cases(exported, torch_implementation(cls))
    for case, result in zip(index["cases"], results, strict=True):
        # With no float32 parameter beside it, torch rounds float16's statistics to float16.
        with_parameters = case["weight"] or case["bias"] or case["tracked"]
        if case["dtype"] != "float16" or with_parameters:
            assert result.correct.status != "failed", result
    failed = {
        case["dtype"]
        for case, result in zip(index["cases"], results, strict=True)
        if result.contract.status == "failed"
    }
    assert "float32" in failed

    # straightforward float32 overflows, and "correct" does not ask for more
    unmeasured = [result for result in results if result.correct.status == "not measured"]
    assert statuses(unmeasured, "contract") <= {"failed"}
    assert all(result.correct.worst is None for result in unmeasured)


def replay_of_biased(folder, index, right):
    """Return how many cases fail for the biased variance; assert that no others do."""
    wrong = replay_cases(folder, class_implementation(Biased))
    failed = 0
    for case, before, after in zip(index["cases"], right, wrong, strict=True):
        concerned = case["training"] and case["tracked"] and math.prod(case["shape"])
        if not concerned:
            assert after == before
        elif after.correct.status == "failed":
            failed += 1
            assert after.correct.worst > 1
            assert re.match(r"running_var_after\[\d+\] is .* x the tolerance", after.correct.text)
    return failed


@pytest.mark.slow
def test_a_wrong_implementation_fails_where_it_is_wrong(exported, index, right):
    assert replay_of_biased(exported, index, right) > 100


def test_among_few_cases_too_it_fails_where_it_is_wrong(few_exported, few_index):
    right = replay_cases(few_exported, class_implementation(Plain))
    assert statuses(right, "correct") == statuses(right, "contract") == {"passed"}
    assert replay_of_biased(few_exported, few_index, right) > 1


@pytest.mark.slow
def test_a_plain_function_is_checked_as_far_as_it_goes(exported, index):
    implementation = function_implementation(npbn.functional.batch_norm)
    results = replay_cases(exported, implementation)
    assert "failed" not in statuses(results, "correct")
    for case, result in zip(index["cases"], results, strict=True):
        without = "not supported" if case["tracked"] and case["momentum"] is None else "passed"
        assert result.correct.status in (without, "not measured")
        assert ("backward" in result.correct.text) == (without == "passed")


def held_in_float32(case):
    averages = case["training"] and case["tracked"] and case["momentum"] is not None
    scalars = [case["eps"], *([case["momentum"]] if averages else [])]
    return all(scalar == float(np.float32(scalar)) for scalar in scalars)


@pytest.mark.parametrize("capability", sorted(CAPABILITIES))
@pytest.mark.slow
def test_what_is_not_supported_is_not_asked_for(exported, index, right, capability):
    concerns = {
        "training": lambda case: case["training"] or not case["tracked"],
        "evaluation": lambda case: not case["training"],
        "backward": None,
        "eval_backward": None,
        "running_statistics": None,
        "counter": None,
        "momentum_none": lambda case: case["tracked"] and case["momentum"] is None,
        "no_affine": lambda case: not (case["weight"] or case["bias"]),
        "weight_alone": lambda case: case["weight"] and not case["bias"],
        "bias_alone": lambda case: case["bias"] and not case["weight"],
        "untracked": lambda case: not case["tracked"],
        "float16": lambda case: case["dtype"] == "float16",
        "float64": lambda case: case["dtype"] == "float64",
        "empty": lambda case: 0 in case["shape"],
        "double_scalars": lambda case: case["dtype"] == "float64" and not held_in_float32(case),
    }
    concerned = concerns.get(capability, lambda case: f"rank{len(case['shape'])}" == capability)

    class Without(Plain):
        unsupported = (capability,)

        def forward(self, x, training):
            y = super().forward(x, training)
            if capability == "running_statistics":
                del self.running_mean, self.running_var
            if capability == "counter":
                del self.num_batches_tracked
            return y

        def backward(self, grad_output):
            assert capability != "backward"
            return super().backward(grad_output)

    results = replay_cases(exported, class_implementation(Without))
    for case, before, result in zip(index["cases"], right, results, strict=True):
        assert result.correct.status in (before.correct.status, "not supported"), result
        if concerned is not None:
            left_out = result.correct.status == "not supported"
            assert left_out == bool(concerned(case))
            if left_out:
                assert result.correct == (result.contract.status, None, capability)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["evaluation", "weight_alone", "double_scalars"])
def test_what_it_does_not_have_is_not_called(exported, index, part):
    """Cases without these parts are checked, and those with them are not run."""

    class Without(Plain):
        unsupported = (part,)

        def __init__(self, num_features, eps, momentum):
            if part == "double_scalars":
                eps, momentum = (v and float(np.float32(v)) for v in (eps, momentum))
            super().__init__(num_features, eps, momentum)

        def forward(self, x, training):
            assert part != "evaluation" or training
            assert part != "weight_alone" or self.weight is None or self.bias is not None
            return super().forward(x, training)

    results = replay_cases(exported, class_implementation(Without))
    assert statuses(results, "correct") == {"passed", "not supported", "not measured"}
    left_out = [result for result in results if result.correct.status == "not supported"]
    assert 0 < len(left_out) < len(results)
    assert {result.correct.text for result in left_out} == {part}


@pytest.mark.slow
def test_it_fails_on_some_cases_only(exported, index, right):
    def forward(self, x, training):
        if x.ndim == 3:
            raise ValueError("no (N, C, L) here")
        return Plain.forward(self, x, training)

    results = replay_cases(exported, broken(forward=forward))
    for case, before, after in zip(index["cases"], right, results, strict=True):
        if len(case["shape"]) == 3:
            assert after.correct[:2] == ("failed", None)
            assert after.correct.text == "forward raised ValueError: no (N, C, L) here"
        else:
            assert after == before
