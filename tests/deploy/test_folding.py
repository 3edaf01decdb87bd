"""fold_batch_norm: the folded network predicts what the whole one does."""

import copy
import json
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from foldable import assert_folded, fill, networks
from helpers import array, assert_same_bits, assert_within, rngs
from hypothesis import given
from torch import nn
from torch.nn.utils import fusion

import npbn
from npbn import (
    BatchNorm1d,
    Linear,
    ReLU,
    Sequential,
)
from npbn.deploy.config import from_config, to_config
from npbn.deploy.folding import fold_batch_norm
from npbn.errors import ConfigError
from npbn.torch_reference import copy_to_torch


@given(networks(), rngs())
def test_a_folded_network_predicts_the_same_in_float64_to_1e_12(case, rng):
    net, shape = case
    net.double()
    assert_folded(fold_batch_norm(net), net, rng.normal(size=(3, *shape)), 1e-12)


@given(networks(), rngs())
def test_a_folded_network_predicts_the_same_in_float32(case, rng):
    net, shape = case
    folded = fold_batch_norm(net)
    assert {parameter.dtype for parameter in folded.parameters()} <= {np.dtype(np.float32)}
    assert_folded(folded, net, rng.normal(size=(3, *shape)).astype(np.float32))


@pytest.mark.parametrize("network", ["MLP", "CNN"])
@given(rngs())
def test_the_published_networks_fold(network, rng):
    arguments, shape = {"MLP": ((6, 5, 3), (6,)), "CNN": ((2, 8, 5, 3), (2, 8, 8))}[network]
    net = fill(getattr(npbn, network)(*arguments, dtype=np.float64, rng=rng), rng)
    plain = getattr(npbn, network)(*arguments, use_batch_norm=False, dtype=np.float64)
    folded = fold_batch_norm(net)
    assert type(folded) is type(net)
    assert [name for name, _ in folded.named_children()] == [n for n, _ in plain.named_children()]
    x = rng.normal(size=(2, *shape))
    assert_folded(folded, net, x, 1e-12)
    plain.load_state_dict(folded.state_dict())
    assert_same_bits(plain.predict(x), folded.predict(x))


# -- torch's fusion -------------------------------------------------------------------------


def assert_fused(net, its, rng):
    """Compare with torch's fused layer: five roundings on either side, of each term."""
    model = nn.Sequential(*its).double().eval()
    fill(net.double(), rng)
    copy_to_torch(net, model)
    fuse = fusion.fuse_linear_bn_eval if isinstance(net[0], Linear) else fusion.fuse_conv_bn_eval
    fused, folded = fuse(*model), fold_batch_norm(net)[0]
    layer, norm = net
    weight = 1.0 if norm.weight is None else np.abs(norm.weight.data)
    bias = 0.0 if norm.bias is None else np.abs(norm.bias.data)
    own = 0.0 if layer.bias is None else np.abs(layer.bias.data)
    scale = weight / np.sqrt(norm.running_var + norm.eps)
    terms = scale * (own + np.abs(norm.running_mean)) + bias
    unit = 10 * np.finfo(np.float64).eps
    expected = array(fused.weight)
    assert_within(folded.weight.data, expected, unit * np.abs(expected), "weight")
    assert_within(folded.bias.data, array(fused.bias), unit * terms, "bias")


@given(rngs(), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_folded_linear_is_torchs(rng, inputs, outputs, bias):
    ours, its = (
        [lib.Linear(inputs, outputs, bias), lib.BatchNorm1d(outputs, 1e-3)] for lib in (npbn, nn)
    )
    assert_fused(Sequential(*ours), its, rng)


@given(
    rngs(), st.sampled_from([1, 2]), st.booleans(), st.booleans(), st.sampled_from([0, 1, "same"])
)
def test_a_folded_convolution_is_torchs(rng, groups, bias, affine, padding):
    ours, its = (
        [
            lib.Conv2d(2, 4, (2, 3), padding=padding, groups=groups, bias=bias),
            lib.BatchNorm2d(4, affine=affine),
        ]
        for lib in (npbn, nn)
    )
    assert_fused(Sequential(*ours), its, rng)


# -- the original and the folded are two ----------------------------------------------------


@given(networks(), rngs())
def test_the_original_stays_as_it_was(case, rng):
    net, shape = case
    net.double()
    twin = copy.deepcopy(net)
    x = rng.normal(size=(3, *shape))
    y, _ = net(x), twin(x)
    state, modes = net.state_dict(), [module.training for module in net.modules()]
    folded = fold_batch_norm(net)
    arrays = [*net._state(), *folded._state()]
    for parameter in folded.parameters():
        parameter.data[...] = np.nan
    assert [module.training for module in net.modules()] == modes
    assert net.state_dict().keys() == state.keys()
    for key, value in net.state_dict().items():
        assert_same_bits(value, state[key], key)
    assert len({a.ctypes.data for _, a in arrays if a.size}) == sum(a.size > 0 for _, a in arrays)
    grad = rng.normal(size=y.shape)  # the forward pass still waits
    assert_same_bits(net.backward(grad), twin.backward(grad))


@given(networks(), rngs())
def test_the_folded_network_is_one_like_any_other(case, rng):
    """In eval mode; it pickles, is described, and learns."""
    net, shape = case
    net.double()
    x = rng.normal(size=(3, *shape))
    net.backward(rng.normal(size=net(x).shape))
    folded = fold_batch_norm(net)
    assert not any(module.training for module in folded.modules())
    assert all(parameter.grad is None for parameter in folded.parameters())
    again = from_config(json.loads(json.dumps(to_config(folded))))
    again.load_state_dict(folded.state_dict())
    for copied in (again, pickle.loads(pickle.dumps(folded)), fold_batch_norm(folded)):
        assert_same_bits(copied.predict(x), folded.predict(x))

    layout = {name: p.data.flags.f_contiguous for name, p in net.named_parameters()}
    for name, parameter in folded.named_parameters():
        if name in layout:
            assert parameter.data.flags.f_contiguous == layout[name]
    grad = rng.normal(size=folded(x).shape)
    before = folded.state_dict()
    for each in (folded, again.eval()):
        each(x)
        each.backward(grad)
        npbn.SGD(each.parameters(), lr=0.1).step()
    for name, parameter in folded.named_parameters():
        assert_same_bits(again.state_dict()[name], parameter.data)
        assert_same_bits(parameter.data, before[name] - 0.1 * parameter.grad)


@pytest.mark.parametrize("frozen_first", [False, True], ids=["by hand", "by freeze"])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_keep_requires_grad_and_a_new_bias_has_the_weights(bias, frozen_first):
    net = Sequential(Linear(2, 2, bias), BatchNorm1d(2), ReLU(), Linear(2, 2, bias), BatchNorm1d(2))
    net[1].freeze()
    if frozen_first:
        net[0].freeze()
    else:
        net[0].weight.requires_grad = False
    folded = fold_batch_norm(net)
    assert folded[0].frozen == frozen_first
    assert not folded[0].weight.requires_grad
    assert folded[0].bias.requires_grad == (bias and not frozen_first)
    assert folded[2].weight.requires_grad
    assert folded[2].bias.requires_grad
    folded.freeze(False)
    assert folded[0].weight.requires_grad == frozen_first
    assert folded[0].bias.requires_grad == (frozen_first or bias)


def test_tied_weights_are_folded_each_by_its_own():
    rng = np.random.default_rng(0)
    net = Sequential(Linear(3, 3), BatchNorm1d(3), ReLU(), Linear(3, 3), BatchNorm1d(3)).double()
    net[3].weight = net[0].weight
    fill(net, rng)
    folded = fold_batch_norm(net)
    assert_folded(folded, net, rng.normal(size=(4, 3)), 1e-12)
    assert folded[0].weight is not folded[2].weight
    assert net[3].weight is net[0].weight


# -- numbers at the edge --------------------------------------------------------------------


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("var", [0.0, 1e-30, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("mean", [0.0, -1e6, np.nan])
@np.errstate(all="raise")
def test_strange_statistics_do_in_the_folded_network_what_they_did(side, var, mean):
    """1e-9 of the terms: six digits of a mean of 1e6 cancel. NaN where there was NaN."""
    rng = np.random.default_rng(0)
    linear, norm = Linear(3, 3, rng=rng), BatchNorm1d(3)
    net = Sequential(*([linear, norm] if side == "before" else [norm, linear])).double()
    norm.running_mean[1], norm.running_var[1] = mean, var
    x = rng.normal(size=(5, 3))
    expected, found = net.predict(x), fold_batch_norm(net).predict(x)
    assert_within(
        found, expected, 1e-12 * (1 + np.abs(expected)) * max(1, abs(np.nan_to_num(mean)))
    )


def test_what_a_float16_cannot_hold_is_refused():
    net = Sequential(Linear(2, 2, dtype=np.float16), BatchNorm1d(2, dtype=np.float16))
    net[1].running_mean[...], net[1].running_var[...] = 300, 0  # 300 / sqrt(1e-5) = 94868
    with pytest.raises(ConfigError, match=r"fold_batch_norm: 1 .*range of float16"):
        fold_batch_norm(net)
    net[1].running_var[...] = 1
    assert fold_batch_norm(net)[0].bias.dtype == np.float16
