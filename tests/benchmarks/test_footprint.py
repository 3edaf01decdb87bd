"""What npbn costs before it computes: measured, and shown."""

import pytest

from benchmarks import deployment, first_calls, footprint
from benchmarks.memory import RESET

MEMORY = {
    "npbn numba": {"imported": 100 << 20, "ready": 110 << 20, "peak": 170 << 20},
    "npbn numpy": {"imported": 40 << 20, "ready": 50 << 20, "peak": 55 << 20},
    "torch eager": {"imported": 200 << 20, "ready": 250 << 20, "peak": 270 << 20},
}


def test_the_footprint_is_shown_beside_torch_or_alone(tmp_path):
    contest = {
        "threads": 1,
        "seconds": {"numpy": [0.1, 0.1], "npbn numpy": [0.12, 0.12], "torch": [2.0, 2.0]},
        "refused": {},
        "bytes": {"npbn numpy": 45 << 20, "torch": 700 << 20},
        "files": {
            footprint.START_TO_ANSWER: {"npbn numpy": [0.2, 0.2], "torch": [1.8, 1.8]},
            footprint.LOADING: {
                "npbn, .pt": [0.002, 0.002],
                "npbn, .safetensors": [0.008, 0.008],
                "torch, .pt": [0.004, 0.004],
            },
        },
        "memory": {"64": MEMORY},
        "first_calls": {"new environment": {key: [9.0, 11.0] for key in first_calls.MOMENTS}},
    }
    text = footprint.markdown(contest)
    assert (
        "npbn numpy: one image, from start to answer, 1 thread | torch | ≥ 5x | ≥ 5x | 9.00x | aim"
        in text
    )
    assert "npbn, .pt, 1 thread | torch.load with mmap | ≥ 1x | ≥ 1x | 2.00x | aim met |" in text
    assert (
        "npbn, .safetensors, 1 thread | torch.load with mmap | ≥ 1x | ≥ 1x | 0.50x | **mi" in text
    )
    assert (
        "| npbn numpy: import npbn, 1 thread | import numpy | ≤ 1.3x | ≤ 1.1x | 1.20x | met |"
        in text
    )
    assert "| ≤ 1x | ≤ 0.5x | 0.25x | aim met |" in text
    assert "| 64 | npbn numpy | 40.0 MB | 50.0 MB | 55.0 MB | 5.00 MB |" in text
    assert "npbn numba: peak memory of a step, batch 64, the whole process" in text
    assert "| new environment | 10.0 s (9.00 s) | 10.0 s (9.00 s) |" in text
    footprint.draw([contest], tmp_path / "footprint.png")
    assert (tmp_path / "footprint.png").exists()
    alone = {**contest, "files": {}, "memory": {"64": {"npbn numpy": MEMORY["npbn numpy"]}}}
    assert "peak memory" not in footprint.markdown(alone)


def test_without_safetensors_a_line_says_what_is_skipped(monkeypatch, tmp_path, capsys):
    find = deployment.importlib.util.find_spec
    absent = {"safetensors"}
    monkeypatch.setattr(
        deployment.importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    ran = []

    def python(*arguments, **_):
        ran.append(" ".join(arguments))
        return "0.1"

    found = deployment.measure(python, tmp_path, ["npbn numpy", "torch"], quick=True)
    assert list(found[footprint.LOADING]) == ["npbn, .pt", "torch, .pt"]
    assert "if False:\n    npbn.save(" in ran[0]
    assert not any("large.safetensors" in program for program in ran[1:])
    assert capsys.readouterr().out.startswith("safetensors is not installed")
    absent.clear()
    found = deployment.measure(python, tmp_path, ["npbn numpy", "torch"], quick=True)
    assert list(found[footprint.LOADING]) == ["npbn, .pt", "npbn, .safetensors", "torch, .pt"]
    assert {len(seconds) for seconds in found[footprint.LOADING].values()} == {3}
    assert set(found[footprint.START_TO_ANSWER]) == {"npbn numpy", "torch"}
    assert deployment.measure(python, tmp_path, ["npbn numpy"], quick=True) == {}


@pytest.mark.process
def test_a_process_that_fails_is_one_line():
    with pytest.raises(ChildProcessError, match=r"ended: ZeroDivisionError: division by zero$"):
        footprint.python("-c", "1 / 0")


def test_the_installed_size_counts_what_is_required():
    numpy_alone = footprint.installed_size("numpy")
    assert numpy_alone > 10 << 20
    assert numpy_alone < footprint.installed_size("npbn") < numpy_alone + (5 << 20)


@pytest.mark.process
@pytest.mark.skipif(not RESET.exists(), reason="this system does not tell a process its peak")
def test_memory_is_measured_in_a_process_of_its_own():
    moments = footprint.memory((8,), ["npbn numpy"])["8"]["npbn numpy"]
    assert 0 < moments["imported"] <= moments["ready"] <= moments["peak"]


def test_first_calls_are_those_of_a_new_environment_and_of_later_processes():
    caches = []

    def python(*arguments, NUMBA_CACHE_DIR):
        caches.append(NUMBA_CACHE_DIR)
        return f"[0.2, {len(caches)}.0, 0.1]"

    found = first_calls.measure(python, rounds=2)
    assert found["new environment"]["first step"] == [1.0, 3.0]
    assert found["later process"]["first step"] == [2.0, 4.0]
    assert caches[0] == caches[1] != caches[2] == caches[3]
    assert "| later process | 200 ms (200 ms) | 3.00 s (2.00 s) |" in first_calls.table(found)
