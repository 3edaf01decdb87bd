"""The suite passes the variants that are BatchNorm, and tells those that are another function."""

import inspect

import hypothesis
import pytest

import npbn
from npbn.testing import check_batch_norm, npbn_implementation

EXAMPLES = hypothesis.settings.default.max_examples // 10


def variant(cls, *limits):
    """Return a class that is made as a BatchNorm is, and the capabilities that it has not."""
    tracks = "track_running_stats" in inspect.signature(cls).parameters

    class Variant(cls):
        def __init__(self, num_features, eps, momentum, track_running_stats, **options):
            if tracks:
                options["track_running_stats"] = track_running_stats
            super().__init__(num_features, *limits, eps, momentum, **options)

    return Variant, () if tracks else ("untracked",)


AS_BATCH_NORM = [
    (npbn.GhostBatchNorm1d, [10**6], EXAMPLES),
    (npbn.BatchRenorm1d, [1, 0], EXAMPLES),
    (npbn.GhostBatchNorm2d, [10**6], EXAMPLES // 3),
    (npbn.BatchRenorm2d, [1, 0], EXAMPLES // 3),
]


@pytest.mark.parametrize(("cls", "limits", "examples"), AS_BATCH_NORM)
@pytest.mark.slow
def test_a_variant_that_is_batch_norm_keeps_its_contract(cls, limits, examples):
    report = check_batch_norm(npbn_implementation(*variant(cls, *limits)), examples=examples)
    assert report.accurate, report.table()
    missing = [result.name for result in report.results if result.correct == "not supported"]
    assert all("without running statistics" in name or "rank" in name for name in missing)


@pytest.mark.parametrize(
    ("cls", "limits"), [(npbn.GhostBatchNorm1d, [2]), (npbn.BatchRenorm1d, [3, 5])]
)
@pytest.mark.slow
def test_a_variant_that_is_another_function_fails_in_training_and_not_in_evaluation(cls, limits):
    implementation = npbn_implementation(*variant(cls, *limits))
    results = {}
    for part in ("training", "evaluation", "running statistics"):
        report = check_batch_norm(implementation, examples=max(EXAMPLES, 10), only=part)
        results |= {result.name: (result.correct, result.contract) for result in report.results}
    for name, found in results.items():
        if "evaluation" in name:
            assert found == ("passed", "passed"), name
    failed = {name for name, found in results.items() if found[0] == "failed"}
    gradients = {f"gradient of the {what}, training" for what in ("input", "weight")}
    assert failed >= {"output in training", *gradients}
    tracks_otherwise = cls is npbn.GhostBatchNorm1d  # BatchRenorm tracks as BatchNorm does
    assert ("running statistics" in failed) == tracks_otherwise
    assert "gradient of the bias, training" not in failed  # Σ g, whatever x̂ is
