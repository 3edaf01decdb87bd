"""Batches without a value count for nothing in update_batch_norm.

Batches that were all empty set mean 0 and variance 1.
"""

import numpy as np
import pytest
from helpers import rngs
from hypothesis import given

import npbn
from npbn.errors import DataError
from npbn.population import update_batch_norm

EMPTY = [(0, 1), (0, 1, 3), (2, 1, 0)]
VALUES = np.array([[4.0], [6.0]])
OPTIONS = {"momentum": None, "dtype": "f8"}


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
    """The second layer's statistics came out as 1.217 and 3.148, not about 0 and 1."""
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
