"""num_batches_tracked: loaded as torch loads it if an int64 holds it, and counted as by torch."""

import numpy as np
import pytest
import torch

import npbn
from npbn.errors import StateDictError

# -- counters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**63, np.uint64(2**63), np.float32(1e30)]
)
def test_a_counter_that_no_int64_holds_is_refused(value):
    """NaN and 1e30 were loaded as −9223372036854775808."""
    net = npbn.Sequential(npbn.BatchNorm1d(2), npbn.BatchNorm1d(2))
    before, state = net.state_dict(), npbn.Sequential(npbn.BatchNorm1d(2)).state_dict()
    state = {**before, "0.running_mean": np.ones(2), "1.num_batches_tracked": np.asarray(value)}
    with pytest.raises(
        StateDictError, match=r"'1\.num_batches_tracked': expected values of int64, got "
    ):
        net.load_state_dict(state)
    for key, array in net.state_dict().items():
        assert np.array_equal(array, before[key]), key


@pytest.mark.parametrize(
    "value", [3.0, np.float32(7), 2.0**62, np.uint64(5), -1, True + 1, 3.7, 2**63 - 1, -(2.0**63)]
)
def test_a_counter_is_cast_as_torch_casts_it(value):
    mine, its = npbn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    mine.load_state_dict({**mine.state_dict(), "num_batches_tracked": value})
    its.num_batches_tracked.copy_(torch.tensor(value if value == 3.7 else int(value)))
    assert mine.num_batches_tracked == its.num_batches_tracked.item()


@pytest.mark.parametrize("count", [0, 2**31 - 1, 2**62, 2**63 - 2, -(2**63), -1])
def test_after_any_other_comes_the_next(count):
    bn = npbn.BatchNorm1d(2)
    bn.num_batches_tracked[...] = count
    bn(np.eye(2, dtype="f4"))
    assert bn.num_batches_tracked == count + 1


@pytest.mark.parametrize("momentum", [0.1, None])
def test_after_the_largest_int64_comes_the_smallest_as_in_torch(momentum):
    """The counter raised OverflowError when mean and variance had changed."""
    mine, its = npbn.BatchNorm1d(2, momentum=momentum), torch.nn.BatchNorm1d(2, momentum=momentum)
    x = np.eye(2, dtype="f4")
    for bn in (mine, its):
        bn.num_batches_tracked[...] = 2**63 - 1
    mine(x)
    its(torch.from_numpy(x))
    assert mine.num_batches_tracked == its.num_batches_tracked.item() == -(2**63)
    np.testing.assert_allclose(mine.running_mean, its.running_mean.numpy(), rtol=1e-6, atol=1e-18)
