"""The loss of an epoch or an evaluation is the criterion's own, whatever the batches.

Means were averaged by the batches' lengths, not by what each was divided by.
"""

import math
import types

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from distributed.standin import fails, run
from helpers import rngs
from hypothesis import given
from torch import nn

import npbn
from npbn import distributed, torch_reference
from npbn.errors import DataError

LOGITS = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0]])
TARGET = np.array([0, 0, -100, -100])
CLASSES = 3
EPS = 2.0**-52


def cut(x, target, size):
    return [(x[i : i + size], target[i : i + size]) for i in range(0, len(x), size)]


def still(classes=CLASSES):
    """A network that hands its input on, with a parameter for the optimizer, which stays 1."""
    norm = npbn.BatchNorm1d(classes, eps=0.0, dtype="f8").freeze()
    norm.weight.requires_grad = True
    return norm


def losses(x, target, size, make):
    """The loss by every way in which batches are brought together."""
    batches, criterion, reference = cut(x, target, size), make(npbn), make(nn)
    net, model = still(x.shape[1]), nn.Linear(x.shape[1], x.shape[1], dtype=torch.float64)
    with torch.no_grad():
        model.weight[...], model.bias[...] = torch.eye(x.shape[1]), 0.0
    optimizer = npbn.SGD(net.parameters(), lr=0.0)
    its = torch.optim.SGD(model.parameters(), lr=0.0)
    yield "evaluate", npbn.evaluate(net, batches, criterion).loss
    yield "train_epoch", npbn.train_epoch(net, batches, criterion, optimizer)
    yield "torch", torch_reference.evaluate(model, batches, reference).loss
    yield "torch's epoch", torch_reference.train_epoch(model, batches, reference, its)

    def program(comm):
        shards = [
            [part[comm.rank] for part in (np.array_split(x, 2), np.array_split(t, 2))]
            for x, t in batches
        ]
        net = distributed.DataParallel(still(x.shape[1]), comm)
        optimizer = npbn.SGD(net.parameters(), lr=0.0)
        yield distributed.evaluate(net, shards, comm, make(npbn)).loss
        yield distributed.train_epoch(net, shards, make(npbn), optimizer)

    for rank, (evaluated, trained) in enumerate(run(2, lambda comm: tuple(program(comm)))):
        yield f"evaluate, rank {rank}", evaluated
        yield f"train_epoch, rank {rank}", trained


@pytest.mark.parametrize("size", [4, 3, 2, 1])
def test_the_issues_values(size):
    expected = npbn.CrossEntropyLoss()(LOGITS, TARGET)
    assert round(expected, 3) == 1.127
    for way, loss in losses(LOGITS, TARGET, size, lambda library: library.CrossEntropyLoss()):
        assert loss == pytest.approx(expected, rel=100 * EPS), way


def make_criterion(weight, reduction, smoothing):
    def make(library):
        given = weight if library is npbn else torch.tensor(weight)
        return library.CrossEntropyLoss(
            given, ignore_index=1, reduction=reduction, label_smoothing=smoothing
        )

    return make


@given(
    rng=rngs(),
    count=st.integers(1, 9),
    size=st.integers(1, 10),
    reduction=st.sampled_from(["mean", "sum"]),
    smoothing=st.sampled_from([0.0, 0.3]),
)
def test_class_weights_ignored_targets_and_sums(rng, count, size, reduction, smoothing):
    x, target = rng.normal(size=(count, CLASSES)), rng.integers(CLASSES, size=count)
    weight = rng.uniform(0.1, 9, CLASSES)
    make = make_criterion(weight, reduction, smoothing)
    expected = make(npbn)(x, target)
    terms = npbn.functional.cross_entropy(x, target, weight, 1, "none", smoothing)
    counted = weight[target[target != 1]].sum() if reduction == "mean" else 1.0
    # Of each side: a term's own error, a product and a sum for each; the terms are positive.
    bound = (4 * count + 40) * EPS * 9 * (terms.sum() / counted + 1) if counted else 0.0
    for way, loss in losses(x, target, size, make):
        assert loss == pytest.approx(expected, rel=0, abs=bound, nan_ok=True), way
        assert math.isnan(loss) == (counted == 0), way


@pytest.mark.parametrize("size", [3, 2, 1])
def test_terms_of_label_smoothing_count_although_the_weights_of_their_classes_are_0(size):
    """A batch of class 0 alone has a mean of NaN, but the mean over all has its terms."""
    x, target = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0]]), np.array([0, 0, 1])

    def make(library):
        weight = [0.0, 1.0] if library is npbn else torch.tensor([0.0, 1.0]).double()
        return library.CrossEntropyLoss(weight, label_smoothing=0.5)

    expected = make(nn)(torch.tensor(x), torch.tensor(target)).item()
    batches = cut(x, target, size)
    found = [npbn.evaluate(npbn.Identity(), batches, make(npbn)).loss]
    found.append(torch_reference.evaluate(nn.Identity(), batches, make(nn)).loss)

    def program(comm):
        shards = [
            [part[comm.rank] for part in (np.array_split(x, 2), np.array_split(t, 2))]
            for x, t in batches
        ]
        return distributed.evaluate(npbn.Identity(), shards, comm, make(npbn)).loss

    for loss in found + run(2, program):
        assert loss == pytest.approx(expected, rel=100 * EPS)


def test_a_rank_on_which_every_term_has_the_weight_0_is_refused():
    """Its gradient of the mean is NaN, from which that of the whole batch cannot be had."""

    def program(comm):
        net = distributed.DataParallel(npbn.Linear(2, 2, dtype="f8"), comm)
        criterion = npbn.CrossEntropyLoss([0.0, 1.0], label_smoothing=0.5)
        optimizer = npbn.SGD(net.parameters(), lr=0.1)
        target = np.array([comm.rank, comm.rank])
        distributed.train_step(net, np.eye(2), target, criterion, optimizer)

    assert fails(2, program) == "expected a finite loss on all ranks, got rank 0: loss nan"


@given(rng=rngs(), counts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_squared_errors_count_by_elements(rng, counts):
    net = still()
    optimizer = npbn.SGD(net.parameters(), lr=0.0)
    batches = [(rng.normal(size=(n, 3)), rng.normal(size=(n, 3))) for n in counts]
    expected = np.mean(np.square(np.concatenate([x - target for x, target in batches])))
    found = npbn.train_epoch(net, batches, npbn.MSELoss(), optimizer)
    assert found == pytest.approx(expected, rel=100 * EPS)


def test_no_terms_at_all_give_nan_and_no_accuracy_and_no_samples_an_error():
    ignored = [(LOGITS, np.full(4, -100)), (LOGITS[:0], TARGET[:0])]
    with np.errstate(all="raise"):
        found = npbn.evaluate(npbn.Identity(), ignored)
    assert math.isnan(found.loss)
    assert math.isnan(found.accuracy)
    with pytest.raises(DataError, match="expected at least one batch"):
        npbn.evaluate(npbn.Identity(), ignored[1:])


def test_an_empty_batch_counts_for_nothing():
    batches = [(LOGITS[:0], TARGET[:0]), (LOGITS, TARGET), (LOGITS[:0], TARGET[:0])]
    assert npbn.evaluate(npbn.Identity(), batches).loss == pytest.approx(1.127, abs=1e-3)


def test_a_function_is_a_mean_over_samples():
    means = iter([1.0, 4.0])
    found = npbn.evaluate(npbn.Identity(), cut(LOGITS, TARGET, 3), lambda *_: next(means))
    assert found.loss == 1.75


def test_terms_that_are_not_reduced_are_refused_before_anything_runs():
    criterion, net = npbn.CrossEntropyLoss(reduction="none"), types.SimpleNamespace()
    for call in (npbn.evaluate, torch_reference.evaluate):
        with pytest.raises(ValueError, match="reduces by mean or sum, got 'none'"):
            call(npbn.Identity() if call is npbn.evaluate else nn.Identity(), [], criterion)
    with pytest.raises(ValueError, match="reduces by mean or sum"):
        npbn.train_epoch(net, [], criterion, None)
