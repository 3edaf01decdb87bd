"""train_step, train_epoch and evaluate, in npbn and in torch_reference."""

import copy
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import array, assert_same_bits, rngs, tensor
from hypothesis import given
from torch import nn

import npbn
from npbn import ArrayDataset, DataLoader, torch_reference
from npbn.errors import BatchSizeError, DataError, DtypeError, ShapeError
from npbn.torch_reference import copy_to_torch

FEATURES, CLASSES = 6, 4
EPS = np.finfo(np.float64).eps


def drawn_data(rng, count):
    """Return images and labels; the last class is in no sample."""
    return rng.normal(size=(count, FEATURES)), rng.integers(0, CLASSES - 1, count)


def drawn_pair(rng):
    """Return one network, in training mode but for one frozen layer, in both libraries."""
    net = npbn.MLP(FEATURES, 5, CLASSES, dtype=np.float64, rng=rng)
    model = torch_reference.MLP(FEATURES, 5, CLASSES, dtype=torch.float64)
    for name, buffer in net.named_buffers():
        buffer[...] = 2 if name.endswith("tracked") else rng.uniform(0.5, 2, buffer.shape)
    copy_to_torch(net, model)
    net.batch_norm1.eval()
    model.batch_norm1.eval()
    return net, model


# A last batch of one is no batch to train on: counts that leave 0 or at least 2.
counts = st.tuples(st.integers(2, 30), st.integers(2, 8)).filter(lambda nb: nb[0] % nb[1] != 1)


# -- training -------------------------------------------------------------------------------


@given(rngs(), counts)
def test_the_loss_of_an_epoch_is_the_mean_over_its_samples(rng, sizes):
    """Also with an uneven last batch; rounding: a product and a sum for each sample, twice."""
    count, batch_size = sizes
    x, target = drawn_data(rng, count)
    net, model = drawn_pair(rng)
    twin = copy.deepcopy(net).train()
    optimizers = [npbn.SGD(side.parameters(), lr=0.1) for side in (net, twin)]
    its_optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    losses = []
    for start in range(0, count, batch_size):
        batch = slice(start, start + batch_size)
        criterion = npbn.CrossEntropyLoss()
        _, logits = npbn.train_step(twin, x[batch], target[batch], criterion, optimizers[1])
        losses += [*npbn.CrossEntropyLoss(reduction="none")(logits, target[batch])]

    loader = DataLoader(ArrayDataset(x, target), batch_size)
    loss = npbn.train_epoch(net, iter(loader), npbn.CrossEntropyLoss(), optimizers[0])
    its_loss = torch_reference.train_epoch(model, loader, nn.CrossEntropyLoss(), its_optimizer)
    assert loss == pytest.approx(math.fsum(losses) / count, rel=4 * count * EPS, abs=0)
    assert loss == pytest.approx(its_loss, rel=1e-11)  # fifteen steps, each near 1e-12
    assert all(module.training for module in (*net.modules(), *model.modules()))
    for key, value in twin.state_dict().items():
        assert_same_bits(net.state_dict()[key], value)


@given(rngs())
def test_a_step_takes_new_gradients_and_shows_loss_and_logits_before_it(rng):
    net, model = drawn_pair(rng)
    x, target = drawn_data(rng, 8)
    its_parameters = dict(model.named_parameters())
    for name, parameter in net.named_parameters():
        parameter.grad = rng.normal(size=parameter.shape)
        its_parameters[name].grad = tensor(parameter.grad)
    before, criterion = copy.deepcopy(net), npbn.CrossEntropyLoss()
    expected_logits = before(x)
    expected_loss = criterion(expected_logits, target)
    before.zero_grad()
    before.backward(criterion.backward())

    loss, logits = npbn.train_step(net, x, target, criterion, npbn.SGD(net.parameters(), lr=0.5))
    assert loss == expected_loss
    assert_same_bits(logits, expected_logits)
    for parameter, old in zip(net.parameters(), before.parameters(), strict=True):
        assert_same_bits(parameter.grad, old.grad)
        assert_same_bits(parameter.data, old.data - 0.5 * old.grad)

    its_optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    its_loss, its_logits = torch_reference.train_step(
        model, x, target, nn.CrossEntropyLoss(), its_optimizer
    )
    assert its_loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(its_logits, logits, rtol=0, atol=1e-12 * abs(logits).max())
    assert max(torch_reference.max_abs_diff(net, model).values()) < 1e-12 * 4


# -- evaluating -----------------------------------------------------------------------------


@given(rngs(), counts, st.booleans())
def test_evaluate_is_a_direct_computation_and_torchs(rng, sizes, train_mode):
    count, batch_size = sizes
    x, target = drawn_data(rng, count)
    net, model = drawn_pair(rng)
    loader = DataLoader(ArrayDataset(x, target), batch_size)
    found = npbn.evaluate(net, loader, train_mode=train_mode)
    its = torch_reference.evaluate(model, iter(loader), train_mode=train_mode)

    # By batch, since in train mode a sample's result depends on its neighbours.
    probe = copy.deepcopy(net).train(train_mode)
    logits = np.concatenate([probe(batch) for batch, _ in loader])
    losses = npbn.CrossEntropyLoss(reduction="none")(logits, target)
    hits = logits.argmax(1) == target
    assert found.loss == pytest.approx(math.fsum(losses) / count, rel=4 * count * EPS, abs=0)
    assert found.accuracy == np.count_nonzero(hits) / count
    assert [*found.total] == [np.count_nonzero(target == c) for c in range(CLASSES)]
    assert [*found.correct] == [np.count_nonzero(hits[target == c]) for c in range(CLASSES)]
    assert found.total.dtype == found.correct.dtype == np.int64

    assert found.loss == pytest.approx(its.loss, rel=1e-12)
    assert found.accuracy == its.accuracy
    np.testing.assert_array_equal(found.correct, its.correct)
    np.testing.assert_array_equal(found.total, its.total)


def test_train_mode_and_eval_mode_give_different_results():
    rng = np.random.default_rng(0)
    net, _ = drawn_pair(rng)
    loader = DataLoader(ArrayDataset(*drawn_data(rng, 20)), 10)
    assert npbn.evaluate(net, loader).loss != npbn.evaluate(net, loader, train_mode=True).loss


def test_evaluate_takes_a_criterion_a_function_too():
    rng = np.random.default_rng(0)
    net, model = drawn_pair(rng)
    loader = DataLoader(ArrayDataset(*drawn_data(rng, 20)), 8)
    smooth = npbn.evaluate(net, loader, npbn.CrossEntropyLoss(label_smoothing=0.3))
    its = torch_reference.evaluate(model, loader, nn.CrossEntropyLoss(label_smoothing=0.3))
    assert smooth.loss == pytest.approx(its.loss, rel=1e-12)
    assert npbn.evaluate(net, loader, lambda logits, _: float(len(logits))).loss == pytest.approx(
        (8 * 8 + 8 * 8 + 4 * 4) / 20
    )


@pytest.mark.parametrize("train_mode", [True, False])
@pytest.mark.parametrize("state", ["training", "eval", "as drawn"])
def test_evaluate_leaves_everything_as_it_was(train_mode, state):
    """State, modes, gradients, and what is waiting for backward, in network and criterion."""
    rng = np.random.default_rng(0)
    x, target = drawn_data(rng, 10)
    loader = DataLoader(ArrayDataset(*drawn_data(rng, 7)), 4)
    net, model = drawn_pair(rng)
    if state != "as drawn":
        net.train(state == "training")
        model.train(state == "training")
    criterion, its_criterion = npbn.CrossEntropyLoss(), nn.CrossEntropyLoss()
    its_parameters = dict(model.named_parameters())
    for name, parameter in net.named_parameters():
        parameter.grad = rng.normal(size=parameter.shape)
        its_parameters[name].grad = tensor(parameter.grad)

    def snapshot(side):
        grads = [np.asarray(p.grad) for p in side.parameters()]
        values = [np.asarray(value) for value in side.state_dict().values()]
        return [array.tobytes() for array in grads + values], [m.training for m in side.modules()]

    twin, twin_criterion = copy.deepcopy(net), npbn.CrossEntropyLoss()
    twin_criterion(twin(x), target)
    criterion(net(x), target)
    its_loss = its_criterion(model(tensor(x)), tensor(target))
    before, its_before = snapshot(net), snapshot(model)
    npbn.evaluate(net, loader, criterion, train_mode=train_mode)
    torch_reference.evaluate(model, loader, its_criterion, train_mode=train_mode)
    assert snapshot(net) == before
    assert snapshot(model) == its_before

    grad_input = net.backward(criterion.backward())
    assert_same_bits(grad_input, twin.backward(twin_criterion.backward()))
    its_loss.backward()
    for name, parameter in net.named_parameters():
        expected = array(its_parameters[name].grad)
        np.testing.assert_allclose(parameter.grad, expected, rtol=0, atol=1e-12 * 10)


# -- what cannot be trained on or evaluated -------------------------------------------------


LOGITS = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]])


@pytest.mark.parametrize("target", [[0, 0, 1], (0, 0, 1), np.array([0, 0, 1], np.uint64)])
def test_targets_are_integers_of_any_kind(target):
    found = npbn.evaluate(npbn.Identity(), [(LOGITS, target)])
    expected = npbn.evaluate(npbn.Identity(), [(LOGITS, np.array([0, 0, 1]))])
    assert found.loss == expected.loss
    assert [*found.correct, *found.total] == [*expected.correct, *expected.total] == [1, 0, 2, 1]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (np.array([0.0, 1.0, 1.0]), DtypeError, "integer class indices as target, got float64"),
        (np.array([True, False, True]), DtypeError, "integer class indices as target, got bool"),
        (LOGITS, ShapeError, r"expected targets of shape \(3,\).*got \(3, 2\)"),
        (np.array([0]), ShapeError, r"expected targets of shape \(3,\).*got \(1,\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused_whatever_the_criterion(target, error, message):
    with pytest.raises(error, match=message):
        npbn.evaluate(npbn.Identity(), [(LOGITS, target)], lambda *_: 0.0)


def test_a_last_batch_of_one_is_an_error_that_names_drop_last():
    rng = np.random.default_rng(0)
    net, _ = drawn_pair(rng)
    net.train()
    dataset = ArrayDataset(*drawn_data(rng, 9))
    loader = DataLoader(dataset, 4)
    before = net.state_dict()
    with pytest.raises(BatchSizeError, match="drop_last"):
        npbn.evaluate(net, loader, train_mode=True)
    for key, value in net.state_dict().items():
        assert_same_bits(value, before[key])
    assert npbn.evaluate(net, loader).total.sum() == 9

    optimizer = npbn.SGD(net.parameters())
    with pytest.raises(BatchSizeError, match=r"got input of shape \(1, 5\).*drop_last"):
        npbn.train_epoch(net, loader, npbn.CrossEntropyLoss(), optimizer)
    assert net.batch_norm1.num_batches_tracked == before["batch_norm1.num_batches_tracked"] + 2
    full = DataLoader(dataset, 4, drop_last=True)
    npbn.train_epoch(net, full, npbn.CrossEntropyLoss(), optimizer)
    assert npbn.evaluate(net, full, train_mode=True).total.sum() == 8


@pytest.mark.parametrize("library", [npbn, torch_reference], ids=["npbn", "torch"])
def test_no_batch_at_all_is_a_data_error(library):
    rng = np.random.default_rng(0)
    net, model = drawn_pair(rng)
    ours = library is npbn
    net = net if ours else model
    criterion = npbn.CrossEntropyLoss() if ours else nn.CrossEntropyLoss()
    optimizer = (npbn.SGD if ours else torch.optim.SGD)(net.parameters())
    for loader in ([], DataLoader(ArrayDataset(*drawn_data(rng, 3)), 4, drop_last=True)):
        with pytest.raises(DataError, match="batch"):
            library.train_epoch(net, loader, criterion, optimizer)
        for train_mode in (True, False):
            with pytest.raises(DataError, match="batch"):
                library.evaluate(net, loader, train_mode=train_mode)


def test_logits_of_another_rank_are_refused():
    loader = [(np.zeros((4, 2, 3)), np.zeros((4, 3), int))]
    with pytest.raises(ShapeError, match=r"logits of shape \(N, classes\), got \(4, 2, 3\)"):
        npbn.evaluate(npbn.Identity(), loader)
