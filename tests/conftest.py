"""Hypothesis profiles, and one thread for each of the two numerical libraries."""

import os

import pytest
import threadpoolctl
import torch
from hypothesis import settings

import npbn

pytest.register_assert_rewrite("helpers", "layer_contract", "contract_cases")

# HYPOTHESIS_PROFILE=nightly pytest ...
for profile, max_examples in {"dev": 5, "ci": 100, "nightly": 4000}.items():
    settings.register_profile(profile, max_examples=max_examples, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
if os.environ.get("HYPOTHESIS_PROFILE") == "nightly":
    os.environ.setdefault("PYTEST_TIMEOUT", "0")  # as long as it takes

# The arrays are tiny, and the thread pools of torch and OpenBLAS would wait for each other.
torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)


@pytest.fixture(params=["numpy", "numba"], scope="module")
def engine(request):
    """Compute by either engine."""
    if request.param == "numba":
        pytest.importorskip("numba")
    with npbn.using_engine(request.param):
        yield request.param


def pytest_collection_modifyitems(items):
    """Leave what takes long to the other profiles: the suite of every day takes a minute."""
    if settings.default.max_examples < 100:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: HYPOTHESIS_PROFILE=ci runs it"))


def pytest_runtest_logreport(report):
    """Tell of a failure when it happens: a run that is ended early prints no summary."""
    if report.failed and os.environ.get("CI") and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}\n{report.longreprtext}", flush=True)
