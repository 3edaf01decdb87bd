"""How the numba engine compiles: without a folder to write to, side by side, before a fork."""

import shutil
import sys
from pathlib import Path

import pytest
from processes import started

import npbn

pytest.importorskip("numba")
pytestmark = [pytest.mark.slow, pytest.mark.process]
PACKAGE = Path(npbn.__file__).parent

# What is compiled in the least time and calls a loop in another file.
STEP = """
import numpy as np, npbn
def step(dtype=np.float32):
    layer = npbn.BatchNorm1d(3, dtype=dtype)
    layer.running_mean[:], layer.running_var[:] = (1, -2, 3), (0.5, 1, 4)
    return layer.predict(np.arange(12, dtype=dtype).reshape(4, 3))
npbn.set_engine("numpy")
expected = step()
npbn.set_engine("numba")
np.testing.assert_allclose(step(), expected, rtol=1e-6, atol=1e-6)
"""
WIDE = STEP.replace("dtype=np.float32", "dtype=np.float64")


@pytest.fixture
def installed(tmp_path):
    """Return a folder with a copy of the package that nothing has been compiled for."""
    shutil.copytree(PACKAGE, tmp_path / "npbn", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def compiled_before(tmp_path_factory):
    """Return a folder with a copy of the package, after a step in float32."""
    folder = tmp_path_factory.mktemp("compiled")
    shutil.copytree(PACKAGE, folder / "npbn", ignore=shutil.ignore_patterns("__pycache__"))
    run(STEP, folder)
    return folder


@pytest.fixture
def compiled(tmp_path, compiled_before):
    """Return a copy of that folder."""
    shutil.copytree(compiled_before, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(program, folder, **environment):
    """Run a program with the package of a folder; it has to end well and without a complaint."""
    with starting(program, folder, **environment) as process:
        assert process.wait().err == ""


def starting(program, folder, **environment):
    variables = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": ""}
    variables |= {"NPBN_ENGINE": ""} | environment
    command = sys.executable, "-W", "ignore::DeprecationWarning", "-c", program
    return started(*command, limit=600, env=variables, cwd=folder)


def compiled_files(folder):
    return [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]


def test_where_no_folder_can_be_written_to_it_compiles_and_works(installed):
    """Files stand where numba would make folders, which root may not write to either."""
    for folder in [installed / "npbn", *(p for p in installed.rglob("*") if p.is_dir())]:
        (folder / "__pycache__").touch()
    nowhere = installed / "nowhere"
    nowhere.touch()
    home = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere / "cache")}
    run(STEP, installed, **home, LOCALAPPDATA=str(nowhere))
    assert compiled_files(installed) == []


def test_it_is_compiled_once_and_kept_beside_the_package(compiled):
    kept = {path: path.stat().st_mtime_ns for path in compiled_files(compiled)}
    assert kept
    run(STEP, compiled)
    assert {path: path.stat().st_mtime_ns for path in compiled_files(compiled)} == kept


def test_what_is_kept_is_not_used_when_a_file_that_it_calls_has_changed(compiled):
    matrix = compiled / "npbn" / "engines" / "numba_" / "matrix.py"
    text = matrix.read_text()
    changed = text.replace("* scale[c] + shift[c]", "* scale[c] + 9 + shift[c]")
    assert changed != text
    matrix.write_text(changed)
    with starting(STEP, compiled) as process:
        assert "AssertionError" in process.wait(1).err


def test_processes_that_compile_side_by_side_into_one_folder_do_not_trip_over_one_another(
    installed,
):
    cache = installed / "cache"
    with (
        starting(STEP, installed, NUMBA_CACHE_DIR=str(cache)) as first,
        starting(WIDE, installed, NUMBA_CACHE_DIR=str(cache)) as second,
    ):
        for process in (first, second):
            assert process.wait().err == ""
    assert compiled_files(cache)
    for program in (STEP, WIDE):  # what they left can be read
        run(program, installed, NUMBA_CACHE_DIR=str(cache))


FORK = """
import os, sys
child = os.fork()
if child == 0:
    np.testing.assert_allclose(step(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(step(np.float64), expected, rtol=1e-6)  # compiled in the child
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
step()
"""


def test_a_fork_after_a_use_computes_and_compiles(compiled):
    run(STEP + FORK, compiled)


def test_only_the_dtypes_that_are_asked_for_are_compiled(compiled):
    few = compiled_files(compiled)
    run(WIDE, compiled)
    assert len(compiled_files(compiled)) > len(few)
