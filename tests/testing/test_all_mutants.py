"""Every mutant fails the behaviour that it names, and each is wrong in a way of its own."""

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from npbn.testing import check_batch_norm, class_implementation
from npbn.testing.behaviours import BEHAVIOURS
from npbn.testing.mutants import MUTANTS, TextbookBatchNorm
from npbn.testing.report import FAILED

pytestmark = pytest.mark.process  # each check has a process of its own

EXAMPLES = hypothesis.settings.default.max_examples // 10
BY_NAME = {behaviour.name: behaviour for behaviour in BEHAVIOURS}


@pytest.fixture(scope="module")
def drawn():
    """Return the cases of the behaviours that mutants name, drawn once for all of them."""
    return {name: draw(BY_NAME[name]) for name in {mutant.caught_by for mutant in MUTANTS}}


def draw(behaviour, examples=50):
    cases = []

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=max(1, round(examples * behaviour.share)),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(behaviour.cases)
    def collect(case):
        cases.append(case)

    collect()
    return cases


def problem(behaviour, implementation, cases):
    """Return what goes wrong in the first case in which something does, or None."""
    for case in cases:
        try:
            behaviour.run(implementation, case, "correct")
        except Exception as error:
            return error
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_fails_the_behaviour_that_it_names(mutant, drawn):
    behaviour, cases = BY_NAME[mutant.caught_by], drawn[mutant.caught_by]
    assert not behaviour.contract_only
    assert problem(behaviour, class_implementation(mutant), cases) is not None, mutant.__doc__


def test_the_textbook_fails_none_of_them(drawn):
    for name, cases in drawn.items():
        assert problem(BY_NAME[name], class_implementation(TextbookBatchNorm), cases) is None


@pytest.mark.parametrize("mutant", MUTANTS[:: max(1, len(MUTANTS) // EXAMPLES)])
@pytest.mark.slow
def test_the_report_fails_mutants(mutant):
    report = check_batch_norm(class_implementation(mutant))
    assert report.status == 1
    failed = [result for result in report.results if result.correct == FAILED]
    assert mutant.caught_by in [result.name for result in failed]
    assert all(result.problem and result.example for result in failed)


def test_there_are_many_and_each_says_in_a_line_what_is_wrong_with_it():
    assert len(set(MUTANTS)) == len(MUTANTS) >= 100
    for mutant in MUTANTS:
        assert issubclass(mutant, TextbookBatchNorm)
        assert "\n" not in mutant.__doc__.strip()


def test_mutants_differ_from_the_textbook_and_from_one_another():
    """Each overrides something, and no two override the same by the same code."""
    assert len({mutant.__name__ for mutant in MUTANTS}) == len(MUTANTS)
    bodies = []
    for mutant in MUTANTS:
        own = {k: v for k, v in vars(mutant).items() if k[:2] != "__" and k != "caught_by"}
        bodies.append(tuple((k, getattr(v, "__code__", v)) for k, v in sorted(own.items())))
    assert all(bodies)
    assert len(set(map(repr, bodies))) == len(bodies)
