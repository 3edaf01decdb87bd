"""What every experiment of the laboratory has, and that its trials can be repeated."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from examples.lab import EXPERIMENTS
from examples.lab.experiment import Digits, Verdict, experiment, spread
from examples.lab.results import key, plain

FOLDER = Path(__file__).parents[2] / "examples"
# What is measured on a network that has diverged is a number nevertheless.
KEPT = {"sensitivity": {"accuracy": 0.1, "diverged": True}, "depth": {"accuracy": 0.1},
        "large_batches": {"test": 0.1, "train": 0.1, "as_trained": 0.1}}  # fmt: skip
BUDGETS = ("quick", "default", "full")
every_experiment = pytest.mark.parametrize("name", EXPERIMENTS)


@pytest.fixture(scope="module")
def digits():
    return Digits.read(FOLDER / "data" / "mnist-5k")


@pytest.fixture(scope="module")
def few_digits(digits):
    """Return as many images as a batch of large_batches takes, with an eighth of their pixels."""
    train, labels, test, test_labels = digits
    return Digits(train[:512, ::8], labels[:512], test[:300, ::8], test_labels[:300])


def short_trials(about):
    """Return the quick trials with fewer steps."""
    few = {"steps": 50, "epochs": 2}
    return [
        {name: min(value, few[name]) if name in few else value for name, value in trial.items()}
        for trial in about.trials("quick")
    ]


def test_the_list_has_every_file_that_is_an_experiment():
    files = {path.stem for path in (FOLDER / "lab").glob("*.py")}
    assert {name for name in files if hasattr(experiment(name), "QUESTION")} == set(EXPERIMENTS)


@every_experiment
def test_it_says_what_it_is_about(name):
    about = experiment(name)
    assert about.QUESTION.endswith("?")
    assert "arXiv:" in about.SOURCE
    assert not about.CLAIM.endswith(".")
    lines = about.IDEA.strip().splitlines()
    assert lines[-1].endswith((".", ".)"))
    assert 8 <= len(lines) <= 25
    assert max(map(len, lines)) <= 100


@every_experiment
@pytest.mark.parametrize("budget", BUDGETS)
def test_its_trials_are_plain_different_and_of_several_seeds(name, budget):
    about = experiment(name)
    trials = about.trials(budget)
    assert json.loads(json.dumps(trials)) == trials
    assert len(set(map(key, trials))) == len(trials)
    seeds = {trial["seed"] for trial in trials}
    assert len(seeds) >= 2
    for seed in seeds:  # every seed goes through everything
        without = [{**trial, "seed": 0} for trial in trials if trial["seed"] == seed]
        assert len(without) * len(seeds) == len(trials)
    assert all(about.seconds(trial) > 0 for trial in trials)


@every_experiment
def test_the_budgets_grow(name):
    about = experiment(name)
    costs = [sum(map(about.seconds, about.trials(budget))) for budget in BUDGETS]
    assert costs == sorted(costs)
    # Seconds of one core: the seven together take 15 minutes of two cores at the most.
    assert costs[1] <= 15 * 60 * 2


@every_experiment
@pytest.mark.slow
def test_a_trial_gives_the_same_again_and_another_seed_something_else(name, digits):
    about = experiment(name)
    trial = min(about.trials("quick"), key=about.seconds)
    before = [array.copy() for array in digits]
    with np.errstate(all="ignore"):
        results = [about.run(dict(trial), digits) for _ in range(2)]
        other = about.run({**trial, "seed": trial["seed"] + 1}, digits)
    first, second, other = (json.dumps(plain(result)) for result in (*results, other))
    assert first == second
    assert first != other
    assert all(np.array_equal(a, b) for a, b in zip(digits, before, strict=True))


def without_numbers(result):
    """Return a result of the same form whose floats are all None: of a network that diverged."""
    if isinstance(result, dict):
        return {name: without_numbers(value) for name, value in result.items()}
    if isinstance(result, list):
        return [without_numbers(value) for value in result]
    return None if isinstance(result, float) else result


@pytest.mark.slow
@every_experiment
def test_networks_that_diverge_can_be_drawn_and_judged(name, few_digits):
    about = experiment(name)
    # A seed that diverged everywhere, and one in which nothing was lost.
    with np.errstate(all="ignore"):
        found = {
            key(trial): plain(about.run(trial, few_digits))
            for trial in short_trials(about)
            if trial["seed"] == 0
        }
    for lost in ([0], [0, 1]):
        records = []
        for trial in short_trials(about):
            result = found[key({**trial, "seed": 0})]
            gone = without_numbers(result) | KEPT.get(name, {})
            records.append({**trial, **(gone if trial["seed"] in lost else result)})
        assert render_all(about, records)
        assert about.verdict(records).seen
        assert len({len(row) for row in about.table(records)}) == 1


def render_all(about, records):
    pictures = about.pictures(records)
    for picture in pictures:
        picture.figure.savefig(io.BytesIO(), format="png", dpi=40)
        plt.close(picture.figure)
    return pictures


@pytest.mark.parametrize(
    ("held", "expected"),
    [([True, True], "supported"), ([False, True], "mixed"), ([False], "not supported")],
)
def test_a_claim_in_parts_is_supported_when_all_of_them_are(held, expected):
    assert Verdict(dict(enumerate(held)), "").outcome == expected


def test_spread_is_median_smallest_and_largest():
    assert spread([3, 1, 2], "{:.1f}") == "2.0 (1.0 to 3.0)"
