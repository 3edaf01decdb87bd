"""Averages are over batches that had a value: in training, ghosts, renormalisation and ranks.

Issue 16, number 6. torch counts empty batches, which move nothing: there [empty, {4, 6}] gives
2.5 with momentum None.
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
from npbn.errors import DataError
from npbn.population import update_batch_norm

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


# -- update_batch_norm ----------------------------------------------------------------------------


@pytest.mark.parametrize("average_batches", [False, True])
@pytest.mark.parametrize("shape", EMPTY)
def test_nothing_but_empty_batches_is_no_data(average_batches, shape):
    bn = npbn.BatchNorm1d(1, dtype="f8")
    bn(VALUES)
    before = {key: array.tolist() for key, array in bn.state_dict().items()}
    with pytest.raises(DataError, match="expected a loader with data"):
        update_batch_norm(bn, [np.zeros(shape)] * 2, average_batches=average_batches)
    assert {key: array.tolist() for key, array in bn.state_dict().items()} == before


@pytest.mark.parametrize("average_batches", [False, True])
def test_empty_batches_among_others_count_for_nothing(average_batches):
    bn, empty = npbn.BatchNorm1d(1, dtype="f8"), np.zeros((0, 1))
    batches = [empty, VALUES, empty, VALUES + 2]
    update_batch_norm(bn, batches, average_batches=average_batches)
    assert bn.num_batches_tracked == 2
    assert bn.running_mean == 6
    assert bn.running_var == pytest.approx(2.0 if average_batches else 8 / 3, rel=1e-15)


@given(rng=rngs())
def test_a_renormalisation_before_another_layer(rng):
    """Issue 16: the second layer's statistics came out as 1.217 and 3.148, not about 0 and 1."""
    net = npbn.Sequential(
        npbn.BatchRenorm1d(1, 3.0, 5.0, eps=1e-12, dtype="f8"), npbn.BatchNorm1d(1, dtype="f8")
    )
    batches = [rng.normal(7, 3, size=(8, 1)) for _ in range(5)]
    net[0].r_max, net[0].d_max = 2.0, 4.0
    update_batch_norm(net, batches, average_batches=True)
    assert abs(net[1].running_mean) < 1e-13
    assert net[1].running_var == pytest.approx(8 / 7, rel=1e-11)  # biased 1, unbiased 8 / 7
    assert net[0].running_mean == pytest.approx(np.mean(batches), rel=1e-13)
    assert (net[0].r_max, net[0].d_max, net[0].momentum) == (2.0, 4.0, 0.1)


def test_an_average_goes_on_after_the_update():
    bn = npbn.BatchNorm1d(1, **OPTIONS)
    update_batch_norm(bn, [np.zeros((0, 1)), VALUES], average_batches=True)
    bn(VALUES + 2)
    assert bn.running_mean == 6
