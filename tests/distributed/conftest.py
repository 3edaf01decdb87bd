"""Asserts of the shared modules that show values, and a folder for what ranks under mpiexec say."""

from functools import partial

import pytest

pytest.register_assert_rewrite("distributed.mpiexec", "distributed.networks", "distributed.standin")


@pytest.fixture
def run(tmp_path):
    """Run a program under mpiexec, as mpiexec.run does."""
    from distributed import mpiexec

    return partial(mpiexec.run, tmp_path)
