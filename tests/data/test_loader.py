"""ArrayDataset and DataLoader: what a pass gives, in which order, and at what cost."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npbn.data import ArrayDataset, DataLoader
from npbn.errors import DataError, ShapeError

sizes = st.integers(1, 40)


def samples(n):
    """Two arrays whose rows can be told apart and matched."""
    return np.arange(2 * n, dtype=np.float32).reshape(n, 2), np.arange(n)


# ArrayDataset


def test_items_and_length():
    x, y = samples(5)
    dataset = ArrayDataset(x, y)
    assert len(dataset) == 5
    for index in (2, -1, slice(1, 4), np.array([3, 0, 3]), [4, 1]):
        item = dataset[index]
        assert isinstance(item, tuple)
        np.testing.assert_array_equal(item[0], x[index])
        np.testing.assert_array_equal(item[1], y[index])
    with pytest.raises(IndexError):
        dataset[5]


def test_arrays_are_kept_by_reference():
    x, y = samples(5)
    dataset = ArrayDataset(x, y)
    assert dataset.arrays[0] is x
    assert dataset.arrays[1] is y
    assert [len(item) for item in ArrayDataset([1, 2, 3]).arrays] == [3]


def test_arrays_that_make_no_data_set():
    with pytest.raises(DataError, match="at least one"):
        ArrayDataset()
    with pytest.raises(DataError, match=r"\[4, 3, 4\]"):
        ArrayDataset(np.zeros((4, 2)), np.zeros(3), np.zeros(4))
    with pytest.raises(ShapeError, match="first dimension"):
        ArrayDataset(np.zeros(3), np.float32(1))


# DataLoader: what a pass gives


@given(n=sizes, batch_size=sizes, shuffle=st.booleans(), drop_last=st.booleans())
def test_a_pass_gives_every_sample_once(n, batch_size, shuffle, drop_last):
    x, y = samples(n)
    loader = DataLoader(ArrayDataset(x, y), batch_size, shuffle, drop_last)
    for _ in range(2):
        batches = list(loader)
        assert (
            len(loader) == len(batches) == (n // batch_size if drop_last else -(-n // batch_size))
        )
        assert all(len(batch) == 2 for batch in batches)
        lengths = [len(target) for _, target in batches]
        full, rest = divmod(n, batch_size)
        assert lengths == [batch_size] * full + ([rest] if rest and not drop_last else [])

        seen = np.concatenate([y[:0], *[target for _, target in batches]])
        assert len(set(seen)) == len(seen) == sum(lengths)
        if not shuffle:
            np.testing.assert_array_equal(seen, y[: len(seen)])
        for inputs, target in batches:
            np.testing.assert_array_equal(inputs, x[target], strict=True)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), batch_size=sizes)
def test_order_is_one_permutation_a_pass(seed, n, batch_size):
    y = np.arange(n)
    loader = DataLoader(ArrayDataset(y), batch_size, shuffle=True, rng=np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    for _ in range(3):
        order = np.concatenate([batch for (batch,) in loader])
        np.testing.assert_array_equal(order, rng.permutation(n))


def test_passes_differ_and_loaders_without_rng_too():
    dataset = ArrayDataset(np.arange(100))
    one, another = (DataLoader(dataset, 100, shuffle=True) for _ in range(2))
    orders = [tuple(batch) for loader in (one, one, another) for (batch,) in loader]
    assert len(set(orders)) == 3


def test_global_random_state_is_left_alone():
    before = np.random.get_state()  # noqa: NPY002
    list(DataLoader(ArrayDataset(np.arange(9)), 2, shuffle=True))
    after = np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_unshuffled_passes_draw_nothing():
    rng = np.random.default_rng(0)
    list(DataLoader(ArrayDataset(np.arange(9)), 2, rng=rng))
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_passes_may_run_side_by_side():
    loader = DataLoader(ArrayDataset(np.arange(6)), 2, shuffle=True, rng=np.random.default_rng(0))
    pairs = list(zip(loader, loader, strict=True))
    for side in zip(*pairs, strict=True):
        assert sorted(np.concatenate([batch for (batch,) in side])) == list(range(6))


# DataLoader: whose memory, and how much


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_belong_to_the_caller(shuffle, batch_size):
    x, y = samples(7)
    x_before, y_before = x.copy(), y.copy()
    batches = list(DataLoader(ArrayDataset(x, y), batch_size, shuffle))
    for batch in batches:
        for got, source in zip(batch, (x, y), strict=True):
            assert not np.shares_memory(got, source)
            assert got.flags.writeable
            got[...] = -1
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(y, y_before)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_pass_copies_one_batch_at_a_time(shuffle, order):
    x = np.zeros((2_000, 1_000), np.float32, order)  # 8 MB
    loader = DataLoader(ArrayDataset(x), batch_size=50, shuffle=shuffle)
    batch_bytes, order_bytes = x[:50].nbytes, 8 * len(x)
    tracemalloc.start()
    try:
        for batch in loader:
            del batch
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch_bytes <= peak < 1.2 * batch_bytes + 2 * order_bytes


# DataLoader: what it refuses


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "2", None, True])
def test_batch_size_must_be_a_positive_integer(batch_size):
    with pytest.raises(ValueError, match=f"an integer of at least 1, got {batch_size!r}"):
        DataLoader(ArrayDataset(np.arange(3)), batch_size)


def test_numpy_integers_are_batch_sizes():
    assert len(DataLoader(ArrayDataset(np.arange(3)), np.int64(2))) == 2


def test_empty_data_set():
    with pytest.raises(DataError, match="empty"):
        DataLoader(ArrayDataset(np.zeros((0, 3)), np.zeros(0)))


@pytest.mark.parametrize("rng", [0, np.random, np.random.PCG64(0), np.random.RandomState(0)])
def test_rng_must_be_a_generator(rng):
    with pytest.raises(TypeError, match="Generator or None, got"):
        DataLoader(ArrayDataset(np.arange(3)), rng=rng)


@pytest.mark.parametrize("dataset", [np.arange(3), (np.arange(3), np.arange(3)), None])
def test_data_set_must_be_one(dataset):
    with pytest.raises(TypeError, match="must be an ArrayDataset"):
        DataLoader(dataset)


def test_repr_shows_shapes_dtypes_and_options():
    dataset = ArrayDataset(np.zeros((3, 2), "f4"), np.zeros(3, "i8"))
    assert repr(dataset) == "ArrayDataset((3, 2) float32, (3,) int64)"
    loader = DataLoader(dataset, 2, shuffle=True, drop_last=True)
    options = "batch_size=2, shuffle=True, drop_last=True"
    assert repr(loader) == f"DataLoader({dataset!r}, {options})"
