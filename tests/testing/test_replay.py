"""Replays: what they say of right and of wrong implementations."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

import npbn
from npbn.testing.adapters.torch_nn import implementation as torch_implementation
from npbn.testing.export import export_cases, replay_cases
from npbn.testing.protocol import (
    CAPABILITIES,
    CannotConstructError,
    Implementation,
    class_implementation,
    function_implementation,
    npbn_implementation,
)
from npbn.testing.replay import ReplayReport


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    export_cases(folder)
    return folder


@pytest.fixture(scope="module")
def index(exported):
    return json.loads((exported / "index.json").read_text())


@pytest.fixture(scope="module")
def right(exported):
    """What a right implementation gets."""
    return replay_cases(exported, class_implementation(Plain))


@pytest.fixture(scope="module")
def few(exported, index, tmp_path_factory):
    """Copy the first twelve cases."""
    folder = tmp_path_factory.mktemp("few")
    cases = index["cases"][:12]
    for case in cases:
        shutil.copy(exported / case["file"], folder)
    (folder / "index.json").write_text(json.dumps({**index, "cases": cases}))
    return folder


def statuses(results, measure):
    return {getattr(result, measure).status for result in results}


# -- implementations ----------------------------------------------------------------------------


class Plain:
    """A BatchNorm as one would write it, in float64, all ranks."""

    correction = 1

    def __init__(self, num_features, eps, momentum):
        self.eps, self.momentum = eps, momentum

    def forward(self, x, training):
        self.dtype, x = x.dtype, x.astype(np.float64)
        axes = (0, *range(2, x.ndim))
        self.along = (1, -1, *(1,) * (x.ndim - 2))
        self.count = x.size // x.shape[1]
        self.by_batch = training or self.running_mean is None
        mean, var = self.running_mean, self.running_var
        if self.by_batch:
            mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
            if self.count:
                mean, var = x.mean(axes), x.var(axes)
        if training and self.running_mean is not None:
            self.num_batches_tracked += 1
            if self.count:
                unbiased = var * (self.count / max(self.count - self.correction, 1))
                momentum = self.momentum
                if momentum is None:
                    momentum = 1 / self.num_batches_tracked
                for name, new in (("running_mean", mean), ("running_var", unbiased)):
                    old = getattr(self, name)
                    average = (1 - momentum) * old.astype(np.float64) + momentum * new
                    setattr(self, name, average.astype(old.dtype))
        self.std = np.sqrt(var.astype(np.float64) + self.eps).reshape(self.along)
        self.x_hat = (x - mean.reshape(self.along)) / self.std
        scale = 1 if self.weight is None else self.weight.reshape(self.along)
        shift = 0 if self.bias is None else self.bias.reshape(self.along)
        return (self.x_hat * scale + shift).astype(self.dtype)

    def backward(self, grad_output):
        g = grad_output.astype(np.float64)
        axes = (0, *range(2, g.ndim))
        grad_bias, grad_weight = g.sum(axes), (g * self.x_hat).sum(axes)
        if self.by_batch and self.count:
            g = g - grad_bias.reshape(self.along) / self.count
            g -= self.x_hat * (grad_weight.reshape(self.along) / self.count)
        scale = 1 if self.weight is None else self.weight.reshape(self.along)
        grad_input = (g * (scale / self.std)).astype(self.dtype)
        grads = [
            None if parameter is None else grad.astype(parameter.dtype)
            for parameter, grad in ((self.weight, grad_weight), (self.bias, grad_bias))
        ]
        return (grad_input, *grads)


class Biased(Plain):
    """Stores the biased variance."""

    correction = 0


def broken(**methods):
    """Return an implementation that is Plain but for some methods."""
    return class_implementation(type("Broken", (Plain,), methods))


# -- what a replay says -------------------------------------------------------------------------


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


def test_a_wrong_implementation_fails_where_it_is_wrong(exported, index, right):
    wrong = replay_cases(exported, class_implementation(Biased))
    failed = 0
    for case, before, after in zip(index["cases"], right, wrong, strict=True):
        concerned = case["training"] and case["tracked"] and math.prod(case["shape"])
        if not concerned:
            assert after == before
        elif after.correct.status == "failed":
            failed += 1
            assert after.correct.worst > 1
            assert re.match(r"running_var_after\[\d+\] is .* x the tolerance", after.correct.text)
    assert failed > 100


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


def raising(*_):
    raise RuntimeError("out of paper")


def leaving(*_):
    raise SystemExit(3)


def test_what_cannot_be_made_at_all_is_reported_once(few):
    with pytest.raises(CannotConstructError, match="Broken cannot be constructed: TypeError"):
        replay_cases(few, broken(__init__=raising))


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"forward": raising}, "forward raised RuntimeError: out of paper"),
        ({"forward": None}, "forward raised TypeError"),
        ({"forward": leaving}, "forward raised SystemExit: 3"),
        ({"backward": raising}, "backward raised RuntimeError: out of paper"),
        ({"forward": lambda *_: None}, r"backward raised AttributeError|y: .* got None"),
        ({"backward": lambda *_: None}, "expected three gradients, got None"),
        ({"backward": lambda self, g: (g, g)}, "expected three gradients, got tuple"),
        ({"backward": lambda *_: (None,) * 3}, "grad_input: expected float16 .* got None"),
        ({"running_var": property(raising, lambda *_: None)}, "raised RuntimeError: out of paper"),
        (
            {"num_batches_tracked": property(lambda _: 7, lambda *_: None)},
            "expected [34], got int 7",
        ),
    ],
)
def test_whatever_it_does_the_replay_goes_on(few, index, methods, text):
    results = replay_cases(few, broken(**methods))
    assert len(results) == 12
    for case, result in zip(index["cases"][: len(results)], results, strict=True):
        if case["tracked"] or not {"running_var", "num_batches_tracked"} & set(methods):
            assert result.correct.status == result.contract.status == "failed"
            assert result.correct.worst is None
            assert re.search(text, result.correct.text), result.correct.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda y: y[:0], r"y: expected float16 array of \(8, 3\), got float16 array of \(0, 3\)"),
        (lambda y: y.T, r"got float16 array of \(3, 8\)"),
        (lambda y: y.astype(np.float64), r"got float64 array of \(8, 3\)"),
        (lambda y: y.astype(">f2"), r"got >f2 array"),
        (lambda y: y.astype(object), r"got object array"),
        (lambda y: y * np.float16(np.nan), r"y\[0, 0\] is nan, expected .* inf x the tolerance"),
        (lambda y: y + np.float16(np.inf), r"y\[0, 0\] is inf, expected"),
    ],
)
def test_wrong_output(few, change, text):
    forward = Plain.forward
    implementation = broken(forward=lambda self, x, training: change(forward(self, x, training)))
    result = replay_cases(few, implementation)[0]
    assert result.contract.status == "failed"
    assert re.search(text, result.contract.text), result.contract.text


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


def test_a_target_that_does_not_return_is_given_up_after_a_few_cases_of_a_kind(few):
    def forward(self, x, training):
        while not training:
            pass
        return Plain.forward(self, x, training)

    results = replay_cases(few, broken(forward=forward), seconds=0.3, warm_up=0.3)
    evaluation = [result for result in results if "evaluation" in result.description]
    found = [result.correct.status for result in evaluation]
    assert found == ["failed"] * 3 + ["not tried"] * (len(found) - 3)
    assert len(found) > 3
    assert evaluation[0].correct.text == "did not return within 0.3 seconds"
    assert {r.correct.status for r in results if r not in evaluation} == {"passed"}
    assert ReplayReport(tuple(results)).status == 1


def test_what_comes_after_the_limit_of_the_run_is_not_tried(few):
    results = replay_cases(few, class_implementation(Plain), limit=-1)
    assert statuses(results, "correct") == statuses(results, "contract") == {"not tried"}
    report = ReplayReport(tuple(results))
    assert report.status == 2
    assert "12 not tried" in str(report)
    assert ReplayReport((*results, *replay_cases(few, class_implementation(Plain)))).status == 2


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


def test_an_implementation_that_writes_to_its_input_spoils_no_other_result(few):
    def forward(self, x, training):
        y = Plain.forward(self, x, training)
        x[...] = np.nan
        return y

    def backward(self, grad_output):
        grads = Plain.backward(self, grad_output)
        grad_output[...] = np.nan
        return grads

    results = replay_cases(few, broken(forward=forward, backward=backward))
    assert results == replay_cases(few, class_implementation(Plain))


def test_what_is_made_is_no_batch_norm(few):
    for result in replay_cases(few, Implementation(lambda setup: None, "nothing")):
        assert "'NoneType' object has no attribute 'forward'" in result.contract.text
