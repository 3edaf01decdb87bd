"""A file that is being saved is the old one or the new one, whatever happens meanwhile."""

import errno
import os
import signal
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import needs_signals, run_python

from npbn.checkpoint import load, save
from npbn.errors import CheckpointError
from npbn.io import atomic

SUFFIXES = (".npz", ".safetensors")


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


def litter(folder, *expected):
    return sorted(path.name for path in folder.iterdir() if path.name not in expected)


# -- kill -9 --------------------------------------------------------------------------------------

# A save is some hundred calls, of Python's functions and C's. Killed before one of them:
KILLED = """
import os, signal, sys
import numpy as np
from npbn.checkpoint import save

calls, fatal = 0, 0

def count(frame, event, argument):
    global calls
    if event in ("call", "c_call"):
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

def watched_save(turn):
    global calls
    calls = 0
    sys.setprofile(count)
    save({"a": np.full(50_000 + turn, turn), "turn": turn}, sys.argv[1])
    sys.setprofile(None)

watched_save(0)  # what the first one imports is there
watched_save(0)
if len(sys.argv) == 2:
    print(calls)
else:
    fatal = int(sys.argv[2])
    watched_save(1)
"""


@pytest.mark.slow
@pytest.mark.process
@needs_signals
def test_a_process_killed_before_any_call_of_a_save_leaves_a_whole_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    calls = int(run_python("-c", KILLED, path).out)
    seen, interrupted = set(), 0
    for fatal in np.linspace(1, calls, 12).astype(int):
        run_python("-c", KILLED, path, fatal, code=-signal.SIGKILL)
        found = load(path)
        seen.add(found["turn"])
        assert found["a"].shape == (50_000 + found["turn"],)
        assert (found["a"] == found["turn"]).all()
        assert found.keys() == {"a", "turn"}
        left = litter(tmp_path, path.name)
        assert all(name.startswith(".npbn-") and name.endswith(".tmp") for name in left)
        interrupted += bool(left)
        for name in left:
            (tmp_path / name).unlink()
    assert seen == {0, 1}
    assert interrupted, "no kill fell between the temporary file and its new name"


@pytest.mark.process
@needs_signals
@pytest.mark.parametrize("step", ["write", "chown", "chmod", "fsync", "replace", "after"])
def test_killed_at_each_step_in_turn(tmp_path, suffix, monkeypatch, step):
    """The child stops itself just before a step; the file is still the old one until `replace`."""
    path = tmp_path / f"x{suffix}"
    save({"a": np.zeros(3)}, path)

    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    sync = atomic._sync
    if step == "after":  # the folder is not on the disk yet
        step = "fsync of the folder"
        monkeypatch.setattr(
            atomic, "_sync", lambda p, flags: stop() if os.path.isdir(p) else sync(p, flags)
        )
    elif step == "write":
        from npbn.checkpoint import npz, safetensors_file

        monkeypatch.setattr(npz if suffix == ".npz" else safetensors_file, "write", stop)
    else:
        monkeypatch.setattr(atomic.os, step, stop)
    child = os.fork()
    if not child:
        try:
            save({"a": np.ones(4)}, path)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    monkeypatch.undo()
    assert os.WIFSIGNALED(status)
    expected = np.ones(4) if step == "fsync of the folder" else np.zeros(3)
    assert np.array_equal(load(path)["a"], expected)


def test_the_data_reach_the_disk_before_the_name_does(tmp_path, suffix, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            atomic.os,
            name,
            lambda *args, name=name, real=real: (calls.append(name), real(*args))[1],
        )
    save({"a": np.ones(4)}, tmp_path / f"x{suffix}")
    assert calls == ["fsync", "replace"] + ["fsync"] * (os.name == "posix")


# -- failing writes -------------------------------------------------------------------------------

LIMITED = """
import resource, sys
import numpy as np
from npbn.checkpoint import save
from npbn import checkpoint
save({"warm": np.zeros(1)}, sys.argv[1] + ".warm" + sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for size in (15_000, 19_990, 20_001, 200_000, 20_000_000):
    try:
        save({"a": np.zeros(size, np.uint8), "b": np.zeros(6_000, np.uint8)}, sys.argv[1])
    except OSError as error:
        print(type(error).__name__, error.errno, error.filename, flush=True)
"""


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="no RLIMIT_FSIZE")
def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    save({"a": np.arange(3)}, path)
    _, out, err = run_python("-c", LIMITED, path, suffix)
    assert err == ""
    assert out.splitlines() == [f"OSError {errno.EFBIG} {path}"] * 5
    assert load(path)["a"].tolist() == [0, 1, 2]
    assert litter(tmp_path, path.name) == [f"{path.name}.warm{suffix}"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_file(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"x{suffix}"
    save({"a": np.arange(3)}, path)
    unlink = os.unlink

    def full(path, *arguments):
        """Make the temporary file a link to the device that is always full."""
        unlink(path)
        os.symlink("/dev/full", path)

    from npbn.checkpoint import npz, safetensors_file

    kind = npz if suffix == ".npz" else safetensors_file
    write = kind.write
    monkeypatch.setattr(kind, "write", lambda path, *rest: (full(path), write(path, *rest)))
    for size in (3, 10**6):
        with pytest.raises(OSError, match="space") as error:
            save({"a": np.zeros(size)}, path)
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
        assert load(path)["a"].tolist() == [0, 1, 2]
        assert litter(tmp_path, path.name) == []


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError("odd"), KeyboardInterrupt]
)
def test_a_step_that_fails_leaves_the_old_file(tmp_path, suffix, monkeypatch, step, error):
    path = tmp_path / f"x{suffix}"
    save({"a": np.arange(3)}, path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(atomic.os, step, fail)
    kind = KeyboardInterrupt if error is KeyboardInterrupt else OSError
    with pytest.raises(kind) as raised:
        save({"a": np.ones(1000)}, path)
    assert kind is KeyboardInterrupt or raised.value.filename == str(path)
    assert load(path)["a"].tolist() == [0, 1, 2]
    assert litter(tmp_path, path.name) == []


def test_a_folder_that_cannot_be_synchronised_is_none_the_worse(tmp_path, monkeypatch):
    sync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")
        sync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fail)
    save({"a": np.ones(4)}, tmp_path / "x.npz")
    assert load(tmp_path / "x.npz")["a"].tolist() == [1] * 4


# -- paths ----------------------------------------------------------------------------------------


def test_a_folder_and_a_missing_one_are_named(tmp_path, suffix):
    folder, missing = tmp_path / f"x{suffix}", tmp_path / "missing" / f"x{suffix}"
    folder.mkdir()
    for path, kind in ((folder, IsADirectoryError), (missing, FileNotFoundError)):
        with pytest.raises(kind) as error:
            save({}, path)
        assert error.value.filename == str(path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        save({}, tmp_path / "file" / f"x{suffix}")
    assert litter(tmp_path) == sorted(["file", folder.name])


def test_names_as_long_as_the_system_takes(tmp_path, suffix):
    path = tmp_path / f"{'x' * (255 - len(suffix))}{suffix}"
    save({"a": np.ones(1)}, path)
    assert load(path)["a"] == 1


def test_a_file_in_the_present_folder(tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save({"a": np.ones(1)}, f"x{suffix}")
    assert load(f"x{suffix}")["a"] == 1
    assert litter(tmp_path) == [f"x{suffix}"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    before = os.umask(0o027)
    try:
        save({}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, "as open would create it"
        path.chmod(0o606)
        save({"a": np.ones(1)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o606, "as it was"
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can")
def test_the_owner_stays(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    save({}, path)
    os.chown(path, 1234, 5678)
    path.chmod(0o640)
    save({"a": np.ones(1)}, path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, 0o640)


def test_a_protected_file_is_refused(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"x{suffix}"
    save({"a": np.arange(3)}, path)
    monkeypatch.setattr(atomic.os, "access", lambda *_: False)  # root may write to anything
    with pytest.raises(PermissionError) as error:
        save({}, path)
    assert error.value.filename == str(path)
    assert load(path)["a"].tolist() == [0, 1, 2]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need leave on Windows")
def test_symbolic_links_stay_and_what_they_lead_to_is_replaced(tmp_path, suffix):
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / f"real{suffix}", tmp_path / f"link{suffix}"
    link.symlink_to(Path("far") / real.name)
    for value in (1, 2):  # the file is made first, then replaced
        save({"a": np.full(1, value)}, link)
        assert link.is_symlink()
        assert load(real)["a"] == value
    assert litter(tmp_path / "far", real.name) == []
    # A pipe stands for devices too: a fault here must not replace the machine's own.
    loop, pipe = tmp_path / f"loop{suffix}", tmp_path / f"pipe{suffix}"
    loop.symlink_to(loop.name)
    os.mkfifo(tmp_path / "pipe")
    pipe.symlink_to("pipe")
    for path in (loop, pipe):
        with pytest.raises(OSError, match=r"symbolic|device"):
            save({}, path)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    with pytest.raises(CheckpointError, match="device"):
        load(pipe)
