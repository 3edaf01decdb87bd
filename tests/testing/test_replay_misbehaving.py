"""Replays go on, whatever an implementation does: few cases, and texts that say what it was."""

import json
import re
import shutil

import numpy as np
import pytest
from plain_batch_norm import Plain, broken

from npbn.testing.export import replay_cases
from npbn.testing.protocol import CannotConstructError, Implementation, class_implementation
from npbn.testing.replay import ReplayReport


def raising(*_):
    raise RuntimeError("out of paper")


def leaving(*_):
    raise SystemExit(3)


def statuses(results, measure):
    return {getattr(result, measure).status for result in results}


def test_what_cannot_be_made_at_all_is_reported_once(few_exported):
    with pytest.raises(CannotConstructError, match="Broken cannot be constructed: TypeError"):
        replay_cases(few_exported, broken(__init__=raising))


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
def test_whatever_it_does_the_replay_goes_on(few_exported, few_index, methods, text):
    results = replay_cases(few_exported, broken(**methods))
    assert len(results) == 12
    for case, result in zip(few_index["cases"], results, strict=True):
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
def test_wrong_output(few_exported, change, text):
    forward = Plain.forward
    implementation = broken(forward=lambda self, x, training: change(forward(self, x, training)))
    result = replay_cases(few_exported, implementation)[0]
    assert result.contract.status == "failed"
    assert re.search(text, result.contract.text), result.contract.text


def test_a_target_that_does_not_return_fails_the_case(few_exported, few_index, tmp_path):
    shutil.copytree(few_exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / "index.json").write_text(json.dumps({**few_index, "cases": few_index["cases"][:1]}))

    def forward(self, x, training):
        while True:
            pass

    (result,) = replay_cases(tmp_path, broken(forward=forward), seconds=0.1, warm_up=0.1)
    assert result.correct == ("failed", None, "did not return within 0.1 seconds")


@pytest.mark.slow
def test_a_target_that_does_not_return_is_given_up_after_a_few_cases_of_a_kind(few_exported):
    def forward(self, x, training):
        while not training:
            pass
        return Plain.forward(self, x, training)

    results = replay_cases(few_exported, broken(forward=forward), seconds=0.3, warm_up=0.3)
    evaluation = [result for result in results if "evaluation" in result.description]
    found = [result.correct.status for result in evaluation]
    assert found == ["failed"] * 3 + ["not tried"] * (len(found) - 3)
    assert len(found) > 3
    assert evaluation[0].correct.text == "did not return within 0.3 seconds"
    assert {r.correct.status for r in results if r not in evaluation} == {"passed"}
    assert ReplayReport(tuple(results)).status == 1


def test_what_comes_after_the_limit_of_the_run_is_not_tried(few_exported):
    results = replay_cases(few_exported, class_implementation(Plain), limit=-1)
    assert statuses(results, "correct") == statuses(results, "contract") == {"not tried"}
    report = ReplayReport(tuple(results))
    assert report.status == 2
    assert "12 not tried" in str(report)
    assert (
        ReplayReport((*results, *replay_cases(few_exported, class_implementation(Plain)))).status
        == 2
    )


def test_an_implementation_that_writes_to_its_input_spoils_no_other_result(few_exported):
    def forward(self, x, training):
        y = Plain.forward(self, x, training)
        x[...] = np.nan
        return y

    def backward(self, grad_output):
        grads = Plain.backward(self, grad_output)
        grad_output[...] = np.nan
        return grads

    results = replay_cases(few_exported, broken(forward=forward, backward=backward))
    assert results == replay_cases(few_exported, class_implementation(Plain))


def test_what_is_made_is_no_batch_norm(few_exported):
    for result in replay_cases(few_exported, Implementation(lambda setup: None, "nothing")):
        assert "'NoneType' object has no attribute 'forward'" in result.contract.text
