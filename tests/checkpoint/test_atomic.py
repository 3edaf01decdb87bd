"""A file that is being saved is the old one or the new one, whatever happens meanwhile."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import npbn
from npbn.checkpoint import atomic, load, save
from npbn.errors import CheckpointError

SUFFIXES = (".npz", ".safetensors")
ROOT = Path(npbn.__file__).parents[1]
KILLS = 40 if settings.default.max_examples >= 100 else 4


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


def python(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def litter(folder, *expected):
    return sorted(path.name for path in folder.iterdir() if path.name not in expected)


# -- kill -9 --------------------------------------------------------------------------------------

ALTERNATE = """
import sys, itertools
import numpy as np
from npbn.checkpoint import save
for turn in itertools.count():
    save({"a": np.full(50_000 + turn % 2, turn % 2), "turn": turn % 2}, sys.argv[1])
    if turn == 0:  # what the first one imports is there
        print("begin", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="no kill -9")
@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    save({"a": np.full(50_000, 0), "turn": 0}, path)
    rng, seen, interrupted = random.Random(0), set(), 0
    deadline = time.monotonic() + 60
    kills = 0
    while kills < KILLS or (not interrupted and time.monotonic() < deadline):
        process = python(ALTERNATE, path)
        assert process.stdout.readline() == "begin\n", process.stderr.read()
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
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
        kills += 1
    assert interrupted, "no kill fell into a save"


@pytest.mark.skipif(os.name != "posix", reason="os.fork")
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


@pytest.mark.skipif(os.name != "posix", reason="no RLIMIT_FSIZE")
def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    save({"a": np.arange(3)}, path)
    process = python(LIMITED, path, suffix)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
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
