"""Averages are over batches that had a value: in training, ghosts, renormalisation and ranks.

With momentum None [empty, {4, 6}] gave a mean of 2.5, as in torch, which counts empty batches.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from distributed.standin import run
from helpers import rngs
from hypothesis import given

import npbn
from npbn.distributed import SyncBatchNorm

EMPTY = [(0, 1), (0, 1, 3), (2, 1, 0)]
VALUES = np.array([[4.0], [6.0]])
OPTIONS = {"momentum": None, "dtype": "f8"}
LAYERS = {
    "BatchNorm1d": lambda comm: npbn.BatchNorm1d(1, **OPTIONS),
    "GhostBatchNorm1d": lambda comm: npbn.GhostBatchNorm1d(1, 2, **OPTIONS),
    "BatchRenorm1d": lambda comm: npbn.BatchRenorm1d(1, 3.0, 5.0, **OPTIONS),
    "SyncBatchNorm": lambda comm: SyncBatchNorm(1, comm=comm, **OPTIONS),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shape", EMPTY)
def test_the_issues_values(layer, shape):
    def program(comm):
        bn = LAYERS[layer](comm)
        share = slice(comm.rank, comm.rank + 1) if comm.size > 1 else slice(None)
        for x in (np.zeros(shape), VALUES[share], np.zeros(shape)):
            bn(x)
        assert bn.running_mean.tolist() == [5.0]
        assert bn.running_var.tolist() == [2.0]
        assert bn.num_batches_tracked == 1

    run(2 if layer == "SyncBatchNorm" else 1, program)


def test_torch_counts_empty_batches():
    """The difference that the docstring of BatchNorm1d states."""
    its = torch.nn.BatchNorm1d(1, momentum=None, dtype=torch.float64)
    for x in (np.zeros((0, 1)), VALUES):
        its(torch.from_numpy(x))
    assert its.running_mean.item() == 2.5


def test_with_a_momentum_an_empty_batch_counts_as_in_torch():
    bn = npbn.BatchNorm1d(1, dtype="f8")
    bn(np.zeros((0, 1)))
    assert bn.num_batches_tracked == 1
    assert bn.running_mean == 0


@given(rng=rngs(), counts=st.lists(st.sampled_from([0, 2, 3, 5]), min_size=1, max_size=6))
def test_the_plain_average_of_all_that_had_a_value(rng, counts):
    batches = [rng.normal(size=(n, 2)) for n in counts]
    full = [x for x in batches if len(x)]
    bn = npbn.BatchNorm1d(2, **OPTIONS)
    for x in batches:
        bn(x)
    assert bn.num_batches_tracked == len(full)
    if full:
        # Four roundings for each average, of numbers below 30.
        bound = 30 * 4 * (len(full) + 5) * 2.0**-53
        np.testing.assert_allclose(
            bn.running_mean, np.mean([x.mean(axis=0) for x in full], axis=0), rtol=0, atol=bound
        )
        np.testing.assert_allclose(
            bn.running_var,
            np.mean([x.var(axis=0, ddof=1) for x in full], axis=0),
            rtol=0,
            atol=bound,
        )
