"""Whatever update_batch_norm raises, the network is as it was."""

import numpy as np
import pytest
from population.networks import drawn, everything, fill

from npbn import BatchNorm1d
from npbn.errors import BatchSizeError, DataError, ShapeError
from npbn.population import update_batch_norm


class Stop(BaseException):
    pass


class Passes:
    """A loader whose passes are given, one list after another; what is callable is called."""

    def __init__(self, *passes):
        self.passes = iter(passes)

    def __iter__(self):
        return (batch() if callable(batch) else batch for batch in next(self.passes))


def stop():
    raise Stop


X = np.random.default_rng(5).normal(1, 2, (4, 3))
IN_EITHER_WAY = {
    "loader": (Stop, lambda: Passes([X, stop]), ""),
    "shape": (ShapeError, lambda: [X, X[:, :2]], "BatchNorm1d(3)"),
    "nothing": (DataError, lambda: [], "expected a loader with data, got none"),
    "empty batches": (DataError, lambda: [X[:0], X[:0]], "expected a loader with data, got none"),
    "one value": (BatchSizeError, lambda: [X[:1]], "Expected more than 1 value per channel"),
}
IN_SEVERAL_PASSES = {
    "loader in a later pass": (Stop, lambda: Passes([X, X], [X, stop]), ""),
    "shape in a later pass": (ShapeError, lambda: Passes([X], [X, X[:, :2]]), "BatchNorm1d(3)"),
    "iterator": (DataError, lambda: iter([X, X]), "an iterator gives its data only once"),
    "generator": (DataError, lambda: (x for x in [X, X]), "3 passes, one for each BatchNorm"),
    "last pass": (DataError, lambda: Passes([X], [X], []), "got none in pass 3"),
}
FAILURES = [
    *((failure, average) for failure in IN_EITHER_WAY for average in (False, True)),
    *((failure, False) for failure in IN_SEVERAL_PASSES),
]


@pytest.mark.parametrize(("failure", "average_batches"), FAILURES)
def test_whatever_is_raised_all_is_as_it_was(failure, average_batches):
    error, loader, message = {**IN_EITHER_WAY, **IN_SEVERAL_PASSES}[failure]
    net = drawn(np.random.default_rng(0))
    net(X)
    before = everything(net)
    with pytest.raises(error) as caught:
        update_batch_norm(net, loader(), average_batches=average_batches)
    assert message in str(caught.value)
    assert everything(net) == before


def test_the_kind_of_average_is_named():
    with pytest.raises(TypeError, match="positional"):
        update_batch_norm(BatchNorm1d(3).double(), [X], True)


def test_the_variance_of_one_value_is_none():
    norm = fill(BatchNorm1d(3).double(), np.random.default_rng(0))
    before = everything(norm)
    with pytest.raises(BatchSizeError, match="more than 1 value per channel, got 1"):
        update_batch_norm(norm, [X[:0], X[:1]])
    assert everything(norm) == before
