"""Replacing a file atomically: at any time it is either the old one or the new one."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable


def replace(path: str, write: Callable[[str], None]) -> None:
    """Replace a file by one that `write` writes.

    Parameters
    ----------
    path : str
        The file. If it exists, the new one gets its permissions. If it is a symbolic link, the file
        that the link points to is replaced.
    write : callable
        Called with the path of an empty temporary file in the same folder, and writes to it.

    Raises
    ------
    OSError
        With `path` as its file name. The old file is kept, and the temporary one is deleted.
    """
    try:
        _replace(os.path.realpath(path), write)
    except OSError as error:
        # The error has the name of the temporary file, which the caller does not know.
        raise OSError(error.errno, error.strerror or str(error), path) from error


def _replace(path: str, write: Callable[[str], None]) -> None:
    old = _replaceable(path)
    folder = os.path.dirname(path)
    # The name is random, so that two processes may save at the same time, and short, as the name of
    # `path` may have the maximum length.
    temporary = os.path.join(folder, f".npbn-{os.urandom(8).hex()}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        write(temporary)
        if old is not None:
            _keep_permissions(temporary, old)
        # Without this the new name could reach the disk before the data: lost after a power cut.
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        with contextlib.suppress(OSError):  # not on every network file system
            _sync(folder, os.O_RDONLY)


def _replaceable(path: str) -> os.stat_result | None:
    """Return the status of the old file, or None; raise OSError on what must not be replaced."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "expected a file, got a device, pipe or socket")
    if not os.access(path, os.W_OK):  # replacing needs only write permission for the folder
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return old


def _keep_permissions(path: str, old: os.stat_result) -> None:
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # usually only root may change the owner
            os.chown(path, old.st_uid, old.st_gid)
    os.chmod(path, stat.S_IMODE(old.st_mode))


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
