"""What the numba engine keeps on disk of functions that several processes compile at once."""

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from npbn.engines.numba_.compiling import compiled  # noqa: E402  # needs numba


def twice(x):
    return x * 2


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Return what compiles the function as a process of its own would, into one folder."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return lambda: compiled(twice)


def test_two_that_save_at_the_same_time_keep_each_its_own_code(process, monkeypatch):
    """The second begins when the first has not saved, and ends between two files of the first."""
    first, second = process(), process()
    one, other = first._cache._cache_file, second._cache._cache_file
    save = one._save_data

    def meanwhile(*arguments):
        monkeypatch.setattr(other, "_load_index", dict)
        second(np.ones(2))
        save(*arguments)

    monkeypatch.setattr(one, "_save_data", meanwhile)
    first(np.ones(2, np.float32))
    for dtype in (np.float64, np.float32):
        x = np.arange(3, dtype=dtype)
        later = process()
        np.testing.assert_array_equal(later(x), twice(x))


def test_the_kept_code_is_loaded(process):
    process()(np.ones(2))
    later = process()
    later(np.ones(2))
    assert sum(later.stats.cache_hits.values()) == 1
