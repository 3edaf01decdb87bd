"""update_batch_norm with average_batches: torch's update_bn."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import assert_same_bits, assert_within, rngs, tensor
from hypothesis import given
from population.networks import NETWORKS, STATISTICS, fill
from torch import nn
from torch.optim.swa_utils import update_bn

import npbn
from npbn import BatchNorm1d, Identity, Sequential, torch_reference
from npbn.population import update_batch_norm
from npbn.torch_reference import copy_to_torch

# -- torch's average ------------------------------------------------------------------------


def its_nested():
    return nn.Sequential(
        nn.BatchNorm1d(4),
        nn.Sequential(nn.Identity(), nn.Linear(4, 3)),
        nn.Sequential(nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Sigmoid())),
        nn.Linear(3, 2),
        nn.BatchNorm1d(2, momentum=None),
    )


def its(network):
    if network == "nested":
        return its_nested().double()
    sizes = {"MLP": (4, 5, 3), "CNN": (2, 4, 3, 3)}[network]
    return getattr(torch_reference, network)(*sizes, dtype=torch.float64)


@pytest.mark.parametrize("network", NETWORKS)
@given(
    rng=rngs(),
    batch_sizes=st.lists(st.integers(4, 8), min_size=1, max_size=4),
    tuples=st.booleans(),
    training=st.booleans(),
)
def test_averaged_they_are_torchs(network, rng, batch_sizes, tuples, training):
    """2^-40 of the largest number, 4,000 roundings; each sees less than 1,000: as in test_models,
    where there is the way back too."""
    make, shape = NETWORKS[network]
    net, model = make(np.float64), its(network)
    if network == "nested":
        setattr(net[1], "0", Identity())  # dropout draws differently in torch
    fill(net, rng).train(training)
    copy_to_torch(net, model)
    data = [rng.normal(1, 2, (size, *shape)) for size in batch_sizes]
    update_bn([(tensor(x), 0) if tuples else tensor(x) for x in data], model.train(training))
    update_batch_norm(net, iter([(x, 0) if tuples else x for x in data]), average_batches=True)
    expected = {key: value.numpy() for key, value in model.state_dict().items()}
    assert net.state_dict().keys() == expected.keys()
    bound = 2**-40 * max(np.abs(value).max() for value in expected.values())
    for key, value in expected.items():
        assert_within(net.state_dict()[key], value, bound, key)


def test_averaged_a_norm_that_occurs_twice_is_torchs():
    rng = np.random.default_rng(0)
    (norm, linear), (its_norm, its_linear) = (
        (lib.BatchNorm1d(2), lib.Linear(2, 2)) for lib in (npbn, nn)
    )
    net, model = (
        Sequential(norm, linear, norm).double(),
        nn.Sequential(its_norm, its_linear, its_norm),
    )
    fill(net, rng)
    copy_to_torch(net, model.double())
    data = [rng.normal(size=(5, 2)) for _ in range(3)]
    update_batch_norm(net, data, average_batches=True)
    update_bn(map(tensor, data), model)
    for key, value in model.state_dict().items():
        assert_within(net.state_dict()[key], value.numpy(), 1e-12, key)
    assert norm.num_batches_tracked == 6


def test_averaged_each_ghost_is_a_batch():
    rng, data = np.random.default_rng(0), np.random.default_rng(1).normal(size=(3, 7, 2))
    ghosts, norm = npbn.GhostBatchNorm1d(2, 3, dtype=np.float64), BatchNorm1d(2, dtype=np.float64)
    update_batch_norm(fill(ghosts, rng), data, average_batches=True)
    parts = [part for x in data for part in (x[:4], x[4:])]
    update_batch_norm(fill(norm, rng), parts, average_batches=True)
    for name in STATISTICS:
        assert_same_bits(getattr(ghosts, name), getattr(norm, name), name)
