"""Replacing a file so that, whatever happens, it is the old one or the new one."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable


def replace(path: str, write: Callable[[str], None]) -> None:
    """Have `write` fill a temporary file, and put that in the place of `path`.

    Parameters
    ----------
    path : str
        An existing file keeps its permissions, a symbolic link stays and the file that it leads
        to is replaced.
    write : callable
        Takes the path of an empty file in the same folder, and writes that.

    Raises
    ------
    OSError
        With `path` as its file name. The old file stands then, and the temporary one is gone.
    """
    try:
        _replace(os.path.realpath(path), write)
    except OSError as error:
        # Not the name of the temporary file, which the caller has never heard of.
        raise OSError(error.errno, error.strerror or str(error), path) from error


def _replace(path: str, write: Callable[[str], None]) -> None:
    old = _replaceable(path)
    folder = os.path.dirname(path)
    # A name of its own, so that two processes that save at the same time do not mix. It is short:
    # that of `path` may be as long as the file system allows.
    temporary = os.path.join(folder, f".npbn-{os.urandom(8).hex()}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        write(temporary)
        if old is not None:
            _keep_permissions(temporary, old)
        # Else the new name could reach the disk before the data, and a power cut leave nothing.
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        with contextlib.suppress(OSError):  # not every network file system can, for folders
            _sync(folder, os.O_RDONLY)


def _replaceable(path: str) -> os.stat_result | None:
    """Return the old file's status, None if there is none; refuse what must not be replaced."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "expected a file, got a device, pipe or socket")
    if not os.access(path, os.W_OK):  # replacing would need leave to write to the folder alone
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return old


def _keep_permissions(path: str, old: os.stat_result) -> None:
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # as far as one may give files away
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode))


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
