"""Parameters that change between forward and backward: refused, where torch refuses.

``lin(x); lin.weight.data -= 1; lin.backward(g)`` went back through the new weight, [[0, 1]]
where that of the forward pass gave [[1, 2]].
"""

import copy
import pickle

import numpy as np
import pytest
from distributed.standin import alone
from helpers import assert_same_bits, rngs
from hypothesis import given

import npbn
from npbn.distributed import DataParallel
from npbn.errors import BackwardError

LAYERS = {
    "Linear": (lambda rng: npbn.Linear(3, 2, dtype="f8", rng=rng), (4, 3)),
    "Conv2d": (lambda rng: npbn.Conv2d(3, 2, 2, dtype="f8", rng=rng), (4, 3, 3, 3)),
    "BatchNorm1d": (lambda rng: npbn.BatchNorm1d(3, dtype="f8"), (4, 3)),
    "GhostBatchNorm1d": (lambda rng: npbn.GhostBatchNorm1d(3, 2, dtype="f8"), (4, 3)),
    "BatchRenorm1d": (lambda rng: npbn.BatchRenorm1d(3, 3.0, 5.0, dtype="f8"), (4, 3)),
    "MLP": (lambda rng: npbn.MLP(3, 4, 2, dtype="f8", rng=rng), (4, 3)),
    "in a network": (
        lambda rng: npbn.Sequential(npbn.ReLU(), npbn.Sequential(npbn.Linear(3, 2, dtype="f8"))),
        (4, 3),
    ),
    "on ranks": (
        lambda rng: DataParallel(npbn.Linear(3, 2, dtype="f8", rng=rng), alone()),
        (4, 3),
    ),
}


def subtract(net):
    next(net.parameters()).data -= 1


def assign(net):
    parameter = list(net.parameters())[-1]
    parameter.data = parameter.data + 1


def step(net):
    for parameter in net.parameters():
        parameter.grad = np.ones(parameter.shape)
    npbn.SGD(net.parameters(), lr=1.0, momentum=0.9).step()


def load(net):
    net.load_state_dict({key: value + 1 for key, value in net.state_dict().items()})


def load_below(net):
    owner = [m for m in net.modules() if list(m._own(npbn.Parameter))][-1]
    owner.load_state_dict({key: value + 1 for key, value in owner.state_dict().items()})


def reset(net):
    [m for m in net.modules() if hasattr(m, "reset_parameters")][-1].reset_parameters()


def initialise(net):
    npbn.init.normal_(next(net.parameters()))


def replace(net):
    owner = next(m for m in net.modules() if list(m._own(npbn.Parameter)))
    owner.weight = npbn.Parameter(owner.weight.data + 1)


def cast(net):
    [m for m in net.modules() if list(m._own(npbn.Parameter))][-1].double()


CHANGES = [subtract, assign, step, load, load_below, reset, initialise, replace, cast]


def test_the_issues_values():
    lin = npbn.Linear(2, 1, bias=False, dtype="f8")
    lin.weight.data[...] = [[1, 2]]
    x, g = np.array([[3.0, 4.0]]), np.array([[1.0]])
    lin(x)
    lin.weight.data -= 1
    with pytest.raises(BackwardError, match=r"expected the parameters of the forward pass.*weight"):
        lin.backward(g)
    lin(x)
    assert_same_bits(lin.backward(g), np.array([[0.0, 1.0]]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_and_nothing_has_changed(layer, change):
    make, shape = LAYERS[layer]
    rng = np.random.default_rng(0)
    net = make(rng)
    y = net(rng.normal(size=shape))
    change(net)
    if net._pending is None:  # a cast forgets what waits in all that is cast
        assert change is cast
        return
    before = [None if p.grad is None else p.grad.copy() for p in net.parameters()]
    for _ in range(2):  # the forward pass goes on waiting
        with pytest.raises(BackwardError, match="has changed since"):
            net.backward(rng.normal(size=y.shape))
    for parameter, grad in zip(net.parameters(), before, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or np.array_equal(parameter.grad, grad)


@pytest.mark.parametrize("layer", LAYERS)
@given(rng=rngs())
def test_changes_elsewhere_of_statistics_or_before_are_no_matter(layer, rng):
    make, shape = LAYERS[layer]
    net, x = make(rng), rng.normal(size=shape)
    twin, other = copy.deepcopy(net), make(rng)
    g = rng.normal(size=net.predict(x).shape)
    twin(x)
    expected = twin.backward(g)
    net(x)
    other(x)
    for change in CHANGES:
        change(other)
    net.predict(x)
    for module in net.modules():
        for name in module._buffers:
            getattr(module, name)[...] = 7
    assert_same_bits(net.backward(g), expected)
    for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
        assert_same_bits(mine.grad, its.grad)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_or_a_pickle_of_another_process_goes_back(again):
    net = npbn.Linear(2, 2, dtype="f8")
    net.weight.changed_at = 10**9  # by another clock
    twin = again(net)
    twin(np.ones((1, 2)))
    npbn.Linear(2, 2)
    assert twin.backward(np.ones((1, 2))) is not None


def test_eval_mode_keeps_the_statistics_of_its_forward_pass():
    bn = npbn.BatchNorm1d(1, eps=0.0, dtype="f8").eval()
    bn(np.array([[1.0], [2.0]]))
    bn.running_var[...] = 100.0
    assert_same_bits(bn.backward(np.array([[3.0], [5.0]])), np.array([[3.0], [5.0]]))
