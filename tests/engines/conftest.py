"""What the tests of the engines share."""

import pytest

import npbn


@pytest.fixture
def threads():
    """Return set_num_threads; the number is restored afterwards."""
    before = npbn.get_num_threads()
    yield npbn.set_num_threads
    npbn.set_num_threads(before)
