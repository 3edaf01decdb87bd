"""Hypothesis profiles, what is left out by them, and one thread for each numerical library."""

import collections
import contextlib
import gc
import importlib.util
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.errors import InvalidArgument

import npbn

pytest.register_assert_rewrite(
    "helpers", "layer_contract", "contract_cases", "onnx_runtime", "optim.runs", "processes"
)

# HYPOTHESIS_PROFILE=nightly pytest ...: how many examples, and whether the slow tests run. Nothing
# else in the tests asks how thorough they are to be.
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
LEAST = 0.15  # of a property's examples, for each of its parameters: 3 of dev's 20, 8 of ci's 50
# They replay and check in processes; a doctest takes no marker.
SLOW_DOCTESTS = ["npbn.testing.export", "npbn.testing.conformance.check_batch_norm"]
for name, max_examples in {"dev": 20, "ci": 50, "nightly": 4000}.items():
    settings.register_profile(
        name,
        max_examples=max_examples,
        deadline=None,
        print_blob=True,
        derandomize=name == "ci",  # a change lands or not by what it does, not by what is drawn
        suppress_health_check=[HealthCheck.too_slow],  # what else the machine does decides that
    )
settings.load_profile(PROFILE)
if PROFILE == "nightly":
    os.environ.setdefault("PYTEST_TIMEOUT", "0")  # as long as it takes


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The arrays are tiny, and the thread pools of torch and OpenBLAS would wait for each other."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import threadpoolctl

        threadpoolctl.threadpool_limits(1)


@pytest.fixture(params=["numpy", "numba"], scope="module")
def engine(request):
    """Compute by either engine."""
    if request.param == "numba":
        pytest.importorskip("numba")
    with npbn.using_engine(request.param):
        yield request.param


# A new Python or NumPy is tried before there is a torch for it: what needs more than is installed
# is left out, by file.
MISSING = {
    name
    for name in ("torch", "matplotlib", "numba", "onnx", "safetensors")
    if importlib.util.find_spec(name) is None
}
collect_ignore = ["examples", "benchmarks"] if MISSING & {"torch", "matplotlib"} else []


def pytest_ignore_collect(collection_path):
    """Leave out a file that holds no tests, or imports what is not installed.

    The others of these folders are modules that tests share, and programs, which must not be
    imported: to look for doctests in them pytest would.
    """
    if collection_path.suffix != ".py":
        return None
    no_tests = not collection_path.name.startswith("test_")
    return True if no_tests or MISSING & imported(collection_path) else None


def imported(path):
    """Return what a file imports when it is imported, by way of the tests' own modules too."""
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    shared = (Path(__file__).with_name(f"{name}.py") for name in names)
    return names.union(*(imported(module) for module in shared if module.exists()))


def pytest_collection():
    """Collect without looking for garbage: what is imported stays."""
    gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Leave what takes long to the other profiles: the suite of every day takes a minute."""
    if PROFILE == "dev":
        for item in items:
            if item.get_closest_marker("slow") or item.name in SLOW_DOCTESTS:
                item.add_marker(pytest.mark.skip(reason="slow: HYPOTHESIS_PROFILE=ci runs it"))
    share_examples(items)


def share_examples(items):
    """Give a property its examples once, not for each of its parameters, and some for each.

    To draw the parameters would leave some of them out; that of a failure is in the test's name.
    """
    functions = collections.Counter(getattr(item, "function", None) for item in items)
    for function, count in functions.items():
        if count > 1 and is_hypothesis_test(function):
            each = math.ceil(settings.default.max_examples * max(LEAST, 1 / count))
            with contextlib.suppress(InvalidArgument):  # of a test that has settings of its own
                settings(max_examples=each)(function)


def pytest_runtest_logreport(report):
    """Tell of a failure when it happens: a run that is ended early prints no summary."""
    if report.failed and os.environ.get("CI") and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}\n{report.longreprtext}", flush=True)
