"""Module.freeze: what is frozen stays as it is, whatever the rest learns."""

import copy
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import assert_same_bits, rngs
from hypothesis import given

import npbn
from npbn import BatchNorm1d, Linear, ReLU, Sequential

COPIES = {"as it is": lambda net: net, "copied": copy.deepcopy}
COPIES["pickled"] = lambda net: pickle.loads(pickle.dumps(net))


def drawn(rng):
    """Return fc1 → norm → relu → part(fc → norm) → fc2 with drawn parameters and statistics."""
    part = Sequential(fc=Linear(4, 4, False, rng=rng), norm=BatchNorm1d(4))
    net = Sequential(
        fc1=Linear(3, 4, False, rng=rng),
        norm=BatchNorm1d(4),
        relu=ReLU(),
        part=part,
        fc2=Linear(4, 2, rng=rng),
    ).double()
    for name, array in (*net.named_buffers(), *((n, p.data) for n, p in net.named_parameters())):
        array[...] = 2 if name.endswith("tracked") else rng.uniform(0.5, 2, array.shape)
    return net


def train(net, rng, steps=2, **options):
    optimizer = npbn.SGD(net.parameters(), **{"lr": 0.1, **options})
    for _ in range(steps):
        x, target = rng.normal(size=(5, 3)), rng.integers(0, 2, 5)
        npbn.train_step(net, x, target, npbn.CrossEntropyLoss(), optimizer)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_frozen_is_in_eval_mode_at_once_and_after_it_until_train(training):
    net = Sequential(Linear(3, 4), BatchNorm1d(4)).train(training)
    net.freeze()
    assert [module.training for module in net.modules()] == [False] * 3
    net.train(training).freeze(False)
    assert [module.training for module in net.modules()] == [False] * 3
    assert net.train().training
    net.freeze(False)  # of what is not frozen it changes nothing
    assert [module.training for module in net.modules()] == [True] * 3


@pytest.mark.parametrize("way", COPIES)
@given(
    rng=rngs(),
    frozen=st.sets(st.sampled_from(["fc1", "norm", "part"]), min_size=1),
    momentum=st.sampled_from([0, 0.9]),
    weight_decay=st.sampled_from([0, 0.1]),
)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(
    way, rng, frozen, momentum, weight_decay
):
    net = drawn(rng)
    for name in frozen:
        assert getattr(net, name).freeze() is getattr(net, name)
    net = COPIES[way](net).train()
    before = net.state_dict()
    for name, module in net.named_modules():
        expected = name.split(".")[0] in frozen
        assert (module.frozen, module.training) == (expected, not expected), name
    train(net, rng, momentum=momentum, weight_decay=weight_decay)
    after = net.state_dict()
    assert after.keys() == before.keys()
    for key, value in before.items():
        if key.split(".")[0] in frozen:
            assert_same_bits(after[key], value, key)
        elif key == "norm.bias":  # where ReLU keeps all, part.norm subtracts it: its gradient is 0
            assert net.norm.bias.grad is not None
        else:
            assert (after[key] != value).any(), key


@given(rng=rngs(), input_grad=st.booleans())
def test_a_frozen_norm_in_a_training_network_has_the_gradients_of_evaluation(rng, input_grad):
    """Those of the input and of every parameter that learns are as with norm.eval()."""
    net = drawn(rng)
    twin = copy.deepcopy(net).train()
    twin.norm.eval()
    net.norm.freeze()
    net.train()
    x = rng.normal(size=(5, 3))
    y = net(x)
    assert_same_bits(y, twin(x))
    grad = rng.normal(size=y.shape)
    assert_same_bits(net.backward(grad, input_grad), twin.backward(grad, input_grad))
    assert net.norm.weight.grad is net.norm.bias.grad is None
    for (name, mine), its in zip(net.named_parameters(), twin.parameters(), strict=True):
        if not name.startswith("norm."):
            assert_same_bits(mine.grad, its.grad, name)


def test_train_and_eval_of_the_whole_leave_a_frozen_part_in_eval_mode():
    net = drawn(np.random.default_rng(0))
    net.part.freeze()
    for mode in (True, False, True):
        assert net.train(mode).training is mode
        assert net.fc1.training is net.norm.training is mode
        assert not any(module.training for module in net.part.modules())
    net.part.train()
    assert not net.part.norm.training


@given(rngs())
def test_freeze_is_no_part_of_the_state(rng):
    net = drawn(rng)
    before = net.state_dict()
    after = net.freeze().state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert_same_bits(after[key], value)
    net.load_state_dict({key: value + 1 for key, value in before.items()})
    assert net.norm.running_mean[0] == before["norm.running_mean"][0] + 1
    assert net.frozen


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("times", [1, 2])
def test_thawed_it_learns_as_if_it_had_never_been_frozen(way, times):
    """From the next train() on: until then it stays in eval mode."""
    net = drawn(np.random.default_rng(0)).train()
    twin = copy.deepcopy(net)
    for _ in range(times):
        net.freeze()
    net = COPIES[way](net)
    assert net.freeze(False) is net
    assert not any(module.training or module.frozen for module in net.modules())
    net.train()
    assert all(module.training for module in net.modules())
    for each in (net, twin):
        train(each, np.random.default_rng(1))
    for key, value in twin.state_dict().items():
        assert_same_bits(net.state_dict()[key], value, key)


@pytest.mark.parametrize("times", [1, 2])
def test_thawing_leaves_parameters_alone_that_were_without_gradient_before(times):
    net = drawn(np.random.default_rng(0))
    net.norm.bias.requires_grad = net.part.fc.weight.requires_grad = False
    for _ in range(times):
        net.freeze()
    net.freeze(False)
    learnt = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert learnt == set(dict(net.named_parameters())) - {"norm.bias", "part.fc.weight"}
    net.freeze(False)  # of what is not frozen: nothing happens
    assert not net.norm.bias.requires_grad
    net.norm.bias.requires_grad = True
    net.fc2.weight.requires_grad = False
    net.freeze().freeze(False)  # nothing is left over from the first time
    assert not net.fc2.weight.requires_grad
    assert net.norm.bias.requires_grad
    assert not net.part.fc.weight.requires_grad


def test_a_part_may_be_thawed_alone_and_the_whole_thaws_every_part():
    net = drawn(np.random.default_rng(0)).freeze()
    net.part.norm.freeze(False)
    net.train()
    assert [name for name, module in net.named_modules() if module.training] == ["part.norm"]
    assert [n for n, p in net.named_parameters() if p.requires_grad] == [
        "part.norm.weight",
        "part.norm.bias",
    ]
    net.freeze(False).train()
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_tied_parameter_thaws_too():
    net = Sequential(Linear(3, 3), Linear(3, 3))
    net[1].weight = net[0].weight
    net.freeze()
    assert not net[0].weight.requires_grad
    net.freeze(False)
    assert net[0].weight.requires_grad


def test_gradients_that_were_there_before_move_nothing():
    net = drawn(np.random.default_rng(0)).train()
    rng = np.random.default_rng(1)
    net.backward(rng.normal(size=net(rng.normal(size=(5, 3))).shape))
    net.norm.freeze()
    before = net.state_dict()
    npbn.SGD(net.parameters(), lr=0.1, weight_decay=0.1).step()
    after = net.state_dict()
    moved = {key for key in before if (before[key] != after[key]).any()}
    assert moved == {n for n, _ in net.named_parameters() if not n.startswith("norm.")}


def test_evaluate_in_train_mode_normalises_a_frozen_layer_by_its_running_statistics():
    rng = np.random.default_rng(0)
    net = drawn(rng)
    net.norm.freeze()
    loader = [(rng.normal(size=(6, 3)), rng.integers(0, 2, 6)) for _ in range(2)]
    probe = copy.deepcopy(net).train()
    losses = [npbn.CrossEntropyLoss()(probe(x), target) for x, target in loader]
    found = npbn.evaluate(net, loader, train_mode=True)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-15)
    assert found.loss != npbn.evaluate(net, loader).loss
    assert net.norm.frozen


@pytest.mark.parametrize("mode", [1, 0, "yes", None])
def test_a_mode_that_is_no_bool_is_refused_and_changes_nothing(mode):
    net = drawn(np.random.default_rng(0)).train()
    with pytest.raises(ValueError, match="freeze: expected mode to be True or False"):
        net.freeze(mode)
    assert all(module.training and not module.frozen for module in net.modules())
