"""Every mutant fails the behaviour that it names, and each is wrong in a way of its own."""

import itertools
import types

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from npbn.testing import check_batch_norm, class_implementation
from npbn.testing.behaviours import BEHAVIOURS
from npbn.testing.mutants import MUTANTS, TextbookBatchNorm
from npbn.testing.report import FAILED

pytestmark = pytest.mark.process  # each check has a process of its own

EXAMPLES = hypothesis.settings.default.max_examples // 20
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
    report = check_batch_norm(class_implementation(mutant), only=mutant.caught_by)
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
    pairs = [(mutant, own(mutant)) for mutant in MUTANTS]
    assert all(body for _, body in pairs)
    for (one, its), (other, others) in itertools.combinations(pairs, 2):
        assert its != others, f"{one.__name__} and {other.__name__} override the same"


def own(cls):
    """Return what a class defines itself, in a form that is equal for equal code."""
    defined = {k: v for k, v in vars(cls).items() if k[:2] != "__" and k != "caught_by"}
    return {k: content(v) for k, v in defined.items()}


def content(value):
    """Return what a function, property or class method does, without names and addresses."""
    if isinstance(value, property):
        return [content(each) for each in (value.fget, value.fset)]
    value = getattr(value, "__func__", value)
    code = getattr(value, "__code__", value)
    if not isinstance(code, types.CodeType):
        return code
    return code.co_code, [content(each) for each in code.co_consts], code.co_names


def test_a_copy_of_a_mutant_would_be_found():
    class First(TextbookBatchNorm):
        def forward(self, x, training):
            return super().forward(x + 1, training)

    class Copied(TextbookBatchNorm):
        def forward(self, x, mode):
            return super().forward(x + 1, mode)

    class Another(TextbookBatchNorm):
        def forward(self, x, training):
            return super().forward(x + 2, training)

    assert own(First) == own(Copied) != own(Another)
