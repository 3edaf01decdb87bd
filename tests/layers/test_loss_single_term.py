"""A loss of one term needs no gradient of it, as in torch.

``CrossEntropyLoss(reduction="none")`` asked for one on one sample without a batch axis.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers import assert_same_bits, rngs
from hypothesis import given
from torch import nn

import npbn
from npbn.errors import BackwardError

SHAPES = {"no batch axis": ((3,), ()), "a batch of one": ((1, 3), (1,)), "one": ((1, 3, 1), (1, 1))}


@pytest.mark.parametrize("shape", SHAPES)
@given(rng=rngs(), smoothing=st.sampled_from([0.0, 0.2]))
def test_cross_entropy_of_one_sample(shape, rng, smoothing):
    logits_shape, target_shape = SHAPES[shape]
    logits, target = rng.normal(size=logits_shape), rng.integers(3, size=target_shape)
    criterion = npbn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)
    assert np.shape(criterion(logits, target)) == target_shape
    found = criterion.backward()
    its = torch.from_numpy(logits).requires_grad_()
    nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)(
        its, torch.from_numpy(np.asarray(target))
    ).backward()
    # np's and torch's: (R + C + 4) eps each, with R below 12 for normal draws.
    np.testing.assert_allclose(found, its.grad.numpy(), rtol=0, atol=40 * 2.0**-52)
    criterion(logits, target)
    assert_same_bits(criterion.backward(np.ones(target_shape)), found)
    criterion(logits, target)
    assert_same_bits(criterion.backward(np.full(target_shape, 2.0)), 2 * found)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_squared_error_of_one_number(shape):
    criterion = npbn.MSELoss(reduction="none")
    criterion(np.full(shape, 3.0), np.full(shape, 1.0))
    assert_same_bits(criterion.backward(), np.full(shape, 4.0))


def test_several_terms_or_none_need_their_gradients_still():
    for count in (0, 2):
        criterion = npbn.MSELoss(reduction="none")
        criterion(np.ones(count), np.ones(count))
        with pytest.raises(BackwardError, match="'none' alone, got none with 'none'"):
            criterion.backward()
    criterion = npbn.MSELoss()
    criterion(np.ones(2), np.ones(2))
    with pytest.raises(BackwardError, match="'none' alone, got one with 'mean'"):
        criterion.backward(np.ones(()))
