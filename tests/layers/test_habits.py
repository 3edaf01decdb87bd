"""What a torch user types by habit: the same names, results and order as torch's.

There was no half(), requires_grad_(), apply(fn), buffers(), get_parameter,
zero_grad(set_to_none=...) and SGD(net.named_parameters()).
"""

import numpy as np
import pytest
import torch
from helpers import assert_same_bits, rngs
from hypothesis import given
from torch import nn

import npbn


def both():
    """The same network twice: a nested one, one layer without a bias, one that occurs twice."""
    made = []
    for library in (npbn, nn):
        shared = library.Linear(3, 3, bias=False)
        made.append(
            library.Sequential(
                library.Linear(3, 3), library.Sequential(library.BatchNorm1d(3), shared), shared
            )
        )
    mine, its = made
    mine.load_state_dict(its.state_dict())
    return mine, its


NAMES = ["", "0", "1", "1.0", "1.1", "2", "3", "1.2", "0.weight", "x.y", "1.", ".", "_own", "train"]


@pytest.mark.parametrize("name", NAMES)
def test_get_submodule(name):
    mine, its = both()
    try:
        expected = its.get_submodule(name)
    except AttributeError:
        with pytest.raises(AttributeError, match="expected the name of a module, of"):
            mine.get_submodule(name)
    else:
        found = [n for n, m in mine.named_modules() if m is mine.get_submodule(name)]
        assert found == [n for n, m in its.named_modules() if m is expected]


@pytest.mark.parametrize(
    "name", ["0.weight", "0.bias", "1.0.weight", "1.1.weight", "2.weight", "1.1.bias", "weight", ""]
)
def test_get_parameter(name):
    mine, its = both()
    try:
        expected = its.get_parameter(name)
    except AttributeError:
        with pytest.raises(AttributeError, match="expected the name of a Parameter, of"):
            mine.get_parameter(name)
    else:
        assert_same_bits(mine.get_parameter(name).data, expected.detach().numpy())
        assert any(mine.get_parameter(name) is p for p in mine.parameters())


@pytest.mark.parametrize("name", ["1.0.running_mean", "1.0.num_batches_tracked", "1.0.weight", "0"])
def test_get_buffer_and_buffers(name):
    mine, its = both()
    mine[1][0].running_mean[...] = 3
    assert [b is c for b, (_, c) in zip(mine.buffers(), mine.named_buffers(), strict=True)] == [
        True for _ in its.buffers()
    ]
    if name in dict(its.named_buffers()):
        assert mine.get_buffer(name) is dict(mine.named_buffers())[name]
    else:
        with pytest.raises(AttributeError, match="expected the name of a buffer, of"):
            mine.get_buffer(name)


def test_a_message_names_what_there_is():
    mine, _ = both()
    message = (
        r"^Sequential: expected the name of a module, of \['0', '1'\], got 'fc' in '1\.fc\.x'$"
    )
    with pytest.raises(AttributeError, match=message):
        mine.get_submodule("1.fc.x")


def test_apply_goes_through_all_in_torchs_order():
    mine, its = both()
    seen = [], []
    assert mine.apply(lambda m: seen[0].append(type(m).__name__)) is mine
    its.apply(lambda m: seen[1].append(type(m).__name__))
    assert seen[0] == seen[1]


@given(rng=rngs())
def test_requires_grad_of_a_part(rng):
    mine, its = both()
    for net in (mine, its):
        assert net.requires_grad_(False) is net
        net[0].requires_grad_()
        net.get_parameter("1.1.weight").requires_grad_(True)
    x = rng.normal(size=(5, 3)).astype("f4")
    g = rng.normal(size=(5, 3)).astype("f4")
    mine(x)
    mine.backward(g)
    its(torch.from_numpy(x)).backward(torch.from_numpy(g))
    for (name, p), (_, q) in zip(mine.named_parameters(), its.named_parameters(), strict=True):
        assert (p.requires_grad, p.grad is None) == (q.requires_grad, q.grad is None), name
    assert mine[1][0].num_batches_tracked == its[1][0].num_batches_tracked.item() == 1
    with pytest.raises(ValueError, match=r"requires_grad_: expected .* True or False, got 1"):
        mine.requires_grad_(1)


@given(rng=rngs())
def test_half_is_torchs(rng):
    mine, its = both()
    assert mine.half() is mine
    its.half()
    state = its.state_dict()
    for key, value in mine.state_dict().items():
        assert_same_bits(value, state[key].numpy(), key)
    x = rng.normal(size=(5, 3)).astype(np.float16)
    assert mine(x).dtype == np.float16
    assert mine.backward(x).dtype == np.float16


def test_what_a_smaller_dtype_does_not_hold_is_infinite_without_a_warning():
    layer = npbn.BatchNorm1d(1, dtype=np.float64)
    layer.weight.data[...] = layer.running_var[...] = 1e300
    with np.errstate(all="raise"):
        layer.half()
    assert layer.weight.data == layer.running_var == np.inf


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("of_the_optimizer", [True, False])
@given(rng=rngs())
def test_zero_grad_and_named_parameters(set_to_none, of_the_optimizer, rng):
    """With zeros a step goes on by momentum, with None it does not; one parameter had none."""
    mine, its = both()
    options = {"lr": 0.5, "momentum": 0.5}
    mine_sgd = npbn.SGD(mine.named_parameters(), **options)
    its_sgd = torch.optim.SGD(its.named_parameters(), **options)
    fresh = mine.get_parameter("0.bias")
    for p, q in zip(mine.parameters(), its.parameters(), strict=True):
        if p is not fresh:
            p.grad = rng.normal(size=p.shape).astype("f4")
            q.grad = torch.from_numpy(p.grad.copy())
    mine_sgd.step()
    its_sgd.step()
    held = mine[0].weight.grad
    before = held.copy()
    for net, optimizer in ((mine, mine_sgd), (its, its_sgd)):
        (optimizer if of_the_optimizer else net).zero_grad(set_to_none=set_to_none)
        optimizer.step()
    assert_same_bits(held, before)  # torch's are overwritten
    assert fresh.grad is None
    for (name, p), q in zip(mine.named_parameters(), its.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or not p.grad.any()
        # SGD's own bound, twice for each of two steps, of magnitudes below 20.
        np.testing.assert_allclose(
            p.data, q.detach().numpy(), rtol=0, atol=4 * 6 * 20 * 2.0**-23, err_msg=name
        )


def test_named_parameters_in_groups_and_what_is_none():
    net = npbn.MLP(2, 3, 4)
    groups = [{"params": net.fc1.named_parameters(), "lr": 0.5}, {"params": [net.fc3.weight]}]
    optimizer = npbn.SGD(groups)
    assert optimizer.param_groups[0]["params"] == [net.fc1.weight]
    with pytest.raises(TypeError, match="expected Parameters, got ndarray"):
        npbn.SGD(net.named_buffers())
    with pytest.raises(TypeError, match="expected Parameters, got str"):
        npbn.SGD(net.state_dict())
