"""Asserts of the shared modules that show values, and a folder for what ranks under mpiexec say."""

from functools import partial

import pytest

pytest.register_assert_rewrite(
    "distributed.networks", "distributed.processes", "distributed.standin"
)


@pytest.fixture
def run(tmp_path):
    """Run a program under mpiexec, as processes.run does."""
    from distributed import processes

    return partial(processes.run, tmp_path)
