"""How the numba engine compiles: without a folder to write to, side by side, before a fork."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import npbn

pytest.importorskip("numba")
pytestmark = pytest.mark.slow
PACKAGE = Path(npbn.__file__).parent

STEP = """
import numpy as np, npbn
def step():
    layer, x = npbn.BatchNorm1d(3), np.arange(12, dtype=np.float32).reshape(4, 3)
    y = layer(x)
    return y.tobytes() + layer.backward(x * x).tobytes() + layer.predict(x).tobytes()
npbn.set_engine("numpy")
expected = np.frombuffer(step(), np.float32)
npbn.set_engine("numba")
np.testing.assert_allclose(np.frombuffer(step(), np.float32), expected, rtol=1e-6, atol=1e-6)
"""


@pytest.fixture
def installed(tmp_path):
    """Return a folder with a copy of the package that nothing has been compiled for."""
    shutil.copytree(PACKAGE, tmp_path / "npbn", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start(program, folder, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "NPBN_ENGINE")}
    variables |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    return subprocess.Popen(
        command,
        env=variables,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process):
    """Return what a process wrote, which has to have ended well and without a complaint."""
    try:
        out, err = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert err == ""
    return out


def compiled_files(folder):
    return [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]


def test_where_no_folder_can_be_written_to_it_compiles_and_works(installed):
    """Files stand where numba would make folders, which root may not write to either."""
    for folder in [installed / "npbn", *(p for p in installed.rglob("*") if p.is_dir())]:
        (folder / "__pycache__").touch()
    nowhere = installed / "nowhere"
    nowhere.touch()
    home = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere / "cache")}
    finish(start(STEP, installed, **home, LOCALAPPDATA=str(nowhere)))
    assert compiled_files(installed) == []


def test_it_is_compiled_once_and_kept_beside_the_package(installed):
    finish(start(STEP, installed))
    kept = {path: path.stat().st_mtime_ns for path in compiled_files(installed)}
    assert kept
    finish(start(STEP, installed))
    assert {path: path.stat().st_mtime_ns for path in compiled_files(installed)} == kept


def test_processes_that_compile_side_by_side_into_one_folder_do_not_trip_over_one_another(
    installed,
):
    cache = installed / "cache"
    processes = [start(STEP, installed, NUMBA_CACHE_DIR=str(cache)) for _ in range(2)]
    for process in processes:
        finish(process)
    assert compiled_files(cache)
    finish(start(STEP, installed, NUMBA_CACHE_DIR=str(cache)))  # what they left can be read


FORK = """
import os, sys
child = os.fork()
if child == 0:
    np.testing.assert_allclose(np.frombuffer(step(), np.float32), expected, rtol=1e-6, atol=1e-6)
    wide = npbn.BatchNorm1d(3, dtype=np.float64)  # compiled in the child
    wide.backward(wide(np.arange(12.0).reshape(4, 3)))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
step()
"""


def test_a_fork_after_a_use_computes_and_compiles(installed):
    finish(start(STEP + FORK, installed))


def test_only_the_dtypes_that_are_asked_for_are_compiled(installed):
    finish(start(STEP, installed))
    few = compiled_files(installed)
    wide = STEP.replace("BatchNorm1d(3)", "BatchNorm1d(3, dtype=float)").replace(
        "dtype=np.float32", "dtype=float"
    )
    finish(start(wide, installed))
    assert len(compiled_files(installed)) > len(few)
