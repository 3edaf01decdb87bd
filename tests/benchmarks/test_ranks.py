"""Steps on several ranks: the model, what is fitted and written, and ranks that fail."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ranks import contest as rank_contest
from benchmarks.ranks import fit as rank_fit
from benchmarks.ranks import forecast, model
from benchmarks.ranks import jobs as rank_jobs
from benchmarks.ranks import measure as ranks
from benchmarks.ranks import tables as rank_report
from benchmarks.ranks.contest import Entry
from benchmarks.ranks.fit import ALONE, OBSERVED, PLAIN, SHARDS, SYNC
from benchmarks.ranks.model import Line, Links, Work

numbers = st.floats(0.1, 10)
lines = st.builds(Line, numbers, numbers)
slow = pytest.mark.slow
needs_mpi = pytest.mark.skipif(bool(ranks.missing()), reason="needs mpi4py and mpiexec")

# Numbers that are easy to add up by hand.
EASY = Links(gather=Line(10, 2), sum=Line(100, 3), overlap=0.0)
HALF, FULL = EASY._replace(overlap=0.5), EASY._replace(overlap=1.0)
SMALL = Work(Line(7, 2), Line(9, 3), 5, 50, Line(4, 6), channels=(1, 2), buckets=(10, 20, 40))


@pytest.mark.parametrize(
    ("function", "seconds"),
    [
        (model.gather, {(EASY.gather, 1, 5): 0, (EASY.gather, 4, 5): 50, (EASY.gather, 5, 5): 70}),
        (model.total, {(EASY.sum, 1, 8): 0, (EASY.sum, 4, 8): 2 * 124}),  # recursive doubling
        (model.total, {(EASY.sum, 4, 1000): 400 + 4500, (EASY.sum, 3, 1000): 400 + 4000}),
        (model.batch_norm, {(EASY, 1, 1): 0, (EASY, 2, 1): 10 + 64 + 148}),
        (model.batch_norm, {(EASY, 16, 1): 40 + 15 * 64 + 4 * 148, (EASY, 17, 2): 5 * 564}),
        (model.loss, {(EASY, 1): 0, (EASY, 4): 2 * 10 + 3 * 64}),
        (model.gradients, {(EASY, 1, (10, 20), 0): 0, (EASY, 2, (10, 20, 40), 100): 510}),
        (model.gradients, {(HALF, 2, (10, 20, 40), 100): 460, (FULL, 2, (10, 20), 999): 160}),
        (model.computing, {(SMALL, 2, 10): 39, (SMALL, 16, 10): 39 + 70, (SMALL, 17, 10): 89}),
        (model.step, {(SMALL, EASY, 1, 10): 27, (SMALL, EASY, 2, 10): 39 + 222 + 302 + 74 + 510}),
        (model.step, {(SMALL, FULL, 2, 10): 1147 - 64}),
    ],
)
def test_the_model_is_what_the_paper_adds_up_to(function, seconds):
    found = [function(*arguments) for arguments in seconds]
    assert found == pytest.approx(list(seconds.values()), rel=1e-14)  # a few roundings


@given(lines, st.lists(st.integers(1, 1000), min_size=2, max_size=9, unique=True))
def test_a_drawn_line_is_found_again(line, xs):
    """Two points at 1000 have a condition of 2e6, and one number may be 100 times the other."""
    assert model.fit(xs, [line.at(x) for x in xs]) == pytest.approx(line, rel=1e-6)


@given(st.lists(st.tuples(st.integers(1, 1000), numbers), min_size=1, unique_by=lambda p: p[0]))
def test_a_fitted_line_is_never_below_zero(points):
    line = model.fit(*zip(*points, strict=True))
    assert min(line) >= 0 < max(line)
    assert model.fit((1, 2), (1, 4)) == pytest.approx((0, 1.2), rel=1e-12)  # by hand
    assert model.fit((1, 2), (4, 1)) == pytest.approx((20 / 17, 0), rel=1e-12)


@given(lines, st.integers(5, 10), st.integers(1, 4096))
def test_beyond_sixteen_ranks_batch_norm_grows_with_the_logarithm_alone(line, log, channels):
    """The square of P doubles log P; gathered statistics would take P times as long."""
    one, square = (model.batch_norm(Links(line, line, 0), 2**n, channels) for n in (log, 2 * log))
    assert 3 * log * line.fixed <= one * (1 + 1e-12)
    assert one < square <= 2 * one * (1 + 1e-12)


@given(lines, lines, lines, st.integers(1, 1000), st.integers(1, 1024))
def test_transfers_that_overlap_never_make_a_step_slower(gather, total, rest, count, samples):
    work, links = SMALL._replace(rest=rest), Links(gather, total, 1.0)
    hidden, full = (model.step(work, links._replace(overlap=o), count, samples) for o in (1, 0))
    buckets = [model.total(total, count, size) for size in work.buckets]
    assert full - sum(buckets[:-1]) - 1e-12 * full <= hidden <= full


LINKS = Links(Line(2e-5, 1e-9), Line(3e-5, 2e-9), overlap=0.0)
COMPUTING = Line(1e-3, 2e-5), Line(1.2e-3, 2.2e-5), 1e-5, -3e-4, Line(2e-4, 5e-6)
WORK = Work(*COMPUTING, channels=(256, 256), buckets=[262_144, 14_376, 802_816])


class Model:
    """A job without processes. The last rank is the slowest; exchanges begin slow, and fast."""

    wrong = absent = about = ""
    close = staticmethod(lambda: None)

    def __init__(self, contender, count):
        self.contender, self.ranks, self.batches = contender, count, {}
        self.refused = {"refused": "none", "kind": "skipped"} if contender == self.absent else {}

    def ask(self, together=True, prepare="", time="", exchange="", bytes=0, times=2, **message):
        role, several, spent = prepare or time, self.ranks if together else 1, {}
        if role and role == self.wrong:
            return [{"refused": "loss is off", "kind": "wrong"}]
        self.batches[role], seconds = message.get("batch", self.batches.get(role)), 0.0
        if exchange:
            seconds = getattr(LINKS, exchange).at(bytes) * np.r_[3, 0.5, [several / 2] * times]
        elif time:
            n = self.batches[role] / several
            seconds = model.step(WORK, LINKS, several, n)
            if role.startswith("one of "):
                seconds = model.computing(WORK, int(role[7:]), n)
            if role == "observed" and several > 1:
                spent = {**dict.fromkeys(rank_report.PARTS, 1e-4), "rest": WORK.rest.at(n)}
        shares = np.arange(1, several + 1) / several
        means = [{k: v * share / shares.mean() for k, v in spent.items()} for share in shares]
        return [{"seconds": seconds * s, "spent": m} for s, m in zip(shares, means, strict=True)]


def measure(monkeypatch, quick=True, cpus=4, **differs):
    monkeypatch.setattr(rank_contest, "Job", type("Differs", (Model,), differs))
    monkeypatch.setattr(ranks, "allowed_cpus", lambda: range(cpus))
    monkeypatch.setattr(ranks, "PASSES", 2)
    return ranks.measure(quick, ranks=[1, 2, 4])


def test_from_what_a_model_takes_its_numbers_are_found_again(monkeypatch):
    results = measure(monkeypatch, quick=False)
    contest = results["steps"][6]
    assert len(contest["seconds"][SYNC]) == contest["rounds"] == ranks.PASSES * ranks.ROUNDS
    assert (contest["batches"][SYNC], contest["batches"][ALONE]) == (512, 256)
    work, links = rank_fit.work(results), rank_fit.links(results)
    for found, exact in zip((*work, *links), (*WORK, *LINKS), strict=True):
        assert found == pytest.approx(exact, rel=1e-9)  # roundings, times a condition below 1e5
    errors = rank_fit.errors(results, work, links)
    assert [e.relative for e in errors] == pytest.approx([0] * 12, abs=1e-9)
    results["steps"][5]["seconds"][SYNC] = [1.25 * errors[5].measured]
    found = "-20.0 %", "is 20.0 %, the mean of their sizes 1.7 %", "| 2 | 9.23 ms |", "| 724 ms |"
    for text in found:
        assert text in forecast.forecast(results)
    assert len(rank_fit.errors({**results, "cpus": 2}, work, links)) == 8
    parts = {"computing": results["computing"][6:], "steps": results["steps"][:4]}
    assert [rank_fit.work({**results, key: part}) for key, part in parts.items()] == [None, None]
    assert rank_fit.links({**results, "exchanges": results["exchanges"][:10]}) is None


@pytest.mark.parametrize(
    ("ms", "verdict", "aims", "rest"),
    [
        (
            (10, 9.6, 0.05, 0.05),
            *("reached", "1.80x 2.00x 2.0 % 4.0 % 1.0 % 2.0 % 4.2 %"),
            "10.0 ms | 100 µs | 50.0 µs | 50.0 µs | 200 µs | 400 µs | -200 µs | 800 µs | 2.0 % |",
        ),
        (
            (12.5, 10, 0.7, 0.2),
            *("**missed**", "1.44x 2.00x 22.4 % 12.8 % 11.2 % 6.4 % 25.0 %"),
            "12.5 ms | 1.40 ms | 700 µs | 700 µs | 2.80 ms | 1.60 ms | 1.20 ms | 700 µs | 22.4 % |",
        ),
    ],
)
def test_aims_are_reached_or_missed(monkeypatch, ms, verdict, aims, rest):
    """A step has eight exchanges, four of BatchNorm, and is 18 ms in one process."""
    results, (sync, plain, part, exchange) = measure(monkeypatch), np.divide(ms, 1e3)
    names = {SYNC: sync, OBSERVED: sync, PLAIN: plain, ALONE: 18e-3, SHARDS: 9e-3}
    for contest in results["steps"][2:4]:
        contest["seconds"] |= {name: [seconds] for name, seconds in names.items()}
        contest["spent"][OBSERVED] |= {"BatchNorm": [2 * part], "loss": [part], "gradients": [part]}
    results["exchanges"] = [{**e, "seconds": exchange} for e in results["exchanges"]]
    text = rank_report.markdown(results)
    rows = [row.split(" | ") for row in text.split("\n\n")[1].splitlines()[2:]]
    assert " ".join(row[1] for row in rows) == aims
    assert [row[3].strip("| ") for row in rows] == [verdict, "-", *[verdict] * 5]
    assert f"| batch 1024 | 2 | {rest}" in text
    for table, batches in zip(text.split("in one process on ")[1:], (1, 2), strict=True):
        assert f"| 2 | {batches * 18e-3 / sync:.2f} [" in table


@pytest.mark.parametrize("wrong", ["synchronised", "no exchange", "one process", "observed"])
def test_a_wrong_step_is_not_timed_and_the_rest_is_written(monkeypatch, wrong, capsys):
    results = measure(monkeypatch, wrong=wrong)
    name = next(name for name, entry in ranks.STEPS.items() if entry.role == wrong)
    assert f"{name}: not timed: wrong: loss is off {{'sweep': 'batch'" in capsys.readouterr().out
    assert not any(name in contest["seconds"] for contest in results["steps"])
    assert ("| wrong |" in rank_report.markdown(results)) == (wrong != "observed")


@pytest.mark.parametrize("absent", ["torch", pytest.param("", marks=slow)])
def test_what_was_measured_is_written_and_drawn(monkeypatch, tmp_path, absent):
    results = measure(monkeypatch, cpus=1 if absent else 4, absent=absent)
    monkeypatch.setattr(ranks, "missing", lambda: "")
    monkeypatch.setattr(ranks, "measure", lambda quick: results)
    ranks.run(tmp_path, quick=True)
    assert {path.name for path in tmp_path.iterdir()} == {"ranks.json", "ranks.md", "ranks.png"}
    text = (tmp_path / "ranks.md").read_text("utf-8")
    for part in ("they are of two ranks", "not two CPUs", "Not fitted", "| 2 \\* |", "| skipped |"):
        assert (part in text) == bool(absent)


@pytest.mark.parametrize("reason", ["mpi4py is not installed", "there is no mpiexec"])
def test_without_mpi_one_line_says_so(monkeypatch, tmp_path, capsys, reason):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in reason else 1)
    monkeypatch.setattr(rank_jobs.shutil, "which", lambda *_, **__: None)
    ranks.run(tmp_path, quick=True)
    assert capsys.readouterr().out == f"time per step against ranks: {reason}: skipped\n"
    assert not list(tmp_path.iterdir())


CHANGED = """
from benchmarks.ranks import shards
from benchmarks.contenders import {0}, npbn_
from benchmarks.task import SkipError, Task
class Ranks({0}.Ranks):
    def task(self, role, problem):
        if role == "one process":
            return super().task(role, problem)
        if role == "skips" and self.rank:
            raise SkipError("no such step")
        if role in ("skips", "ends"):
            return Task(lambda: 1 / (1 - self.rank), None)
        return npbn_.train_step(shards.shard(problem, self.rank, self.ranks))
"""


@needs_mpi
@pytest.mark.process
@pytest.mark.parametrize("module", ["npbn_ranks", pytest.param("torch_ddp", marks=slow)])
def test_ranks_that_exchange_nothing_are_refused(monkeypatch, tmp_path, module):
    (tmp_path / "changed.py").write_text(CHANGED.format(module), "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(rank_jobs.CONTENDERS, "npbn", ("changed", module == "npbn_ranks"))
    monkeypatch.setitem(rank_jobs.CONTENDERS, "torch", ("no_such", False))
    roles = ("one process", "plain", "synchronised", "skips", "ends")
    entries = {"absent": Entry("torch", "")} | {role: Entry("npbn", role) for role in roles}
    with rank_contest.Jobs(2) as jobs:
        contest = jobs.contest({}, entries, dict.fromkeys(entries, 16), rounds=2)
        # One has ended, and so has the other, which had to wait for it.
        assert all(process.poll() is not None for process in jobs.jobs["npbn"].processes)
    assert contest["seconds"] == {}
    for role in ("plain", "synchronised"):
        assert contest["refused"].pop(role).startswith("wrong: loss is off by ")
    kinds = {"skips": "skipped: no such step", "absent": "skipped: no_such is not installed"}
    why = contest["refused"]["ends"]
    assert contest["refused"] == {**kinds, "ends": why, "one process": why}
    assert why.endswith("ZeroDivisionError: division by zero")


@slow
@needs_mpi
@pytest.mark.process
def test_real_ranks_are_right_and_timed(monkeypatch):
    monkeypatch.setattr(rank_contest, "TURN", 0.002)
    monkeypatch.setattr(ranks, "COMPUTING", (8, 16, 32, 64))
    monkeypatch.setattr(ranks, "allowed_cpus", lambda: range(2))
    results = ranks.measure(quick=True, sweeps={"batch": (64,)}, ranks=[1, 2])
    for contest in results["steps"] + results["computing"]:
        assert contest["refused"] == {}
        assert all(len(s) == 3 and min(s) > 0 for s in contest["seconds"].values())
    assert [list(c["seconds"]) for c in results["steps"]] == [list(ranks.STEPS)] * 2
    assert list(results["steps"][1]["spent"][OBSERVED]) == [*rank_report.PARTS, "rest"]
    assert "The largest error is " in rank_report.markdown(results)
