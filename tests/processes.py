"""Processes that tests start: with default signals, within a limit, and none of them left.

A process is watched for an event, a line of its output or whatever else `until` asks for; no
clock decides when it is killed. Limits are in start-ups: the time that an interpreter takes to
import npbn and torch, measured once, beside whatever else the machine is doing.
"""

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MARK = "NPBN_TEST_PROCESS"  # its value, in the environment, tells a process's children
POLL = 0.002
needs_signals = pytest.mark.skipif(os.name != "posix", reason="no signals between processes")


class Done(NamedTuple):
    """What a process leaves: its exit status, minus a signal's number if that ended it."""

    code: int
    out: str
    err: str


def run_process(*command, code=0, limit=120, **options):
    """Run a command to its end; return what it left.

    Parameters
    ----------
    *command : words
    code : int or None
        The exit status that is expected; None takes any.
    limit : float
        In start-ups.
    **options
        Of `started`.

    Raises
    ------
    AssertionError
        On another exit status, beyond the limit, or if one of its children outlives it.
    """
    with started(*command, limit=limit, **options) as process:
        return process.wait(code)


def run_python(*arguments, **options):
    """Run Python in an interpreter of its own, as `run_process` does."""
    return run_process(sys.executable, *arguments, **options)


@functools.cache
def start_up():
    """Return the seconds that an interpreter takes to import npbn and torch, where there is one."""
    code = "import contextlib, npbn\nwith contextlib.suppress(ImportError): import torch"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=_environment({}))
    return max(1.0, time.monotonic() - start)


@contextmanager
def started(*command, limit=120, env=None, cwd=ROOT, stdout=subprocess.PIPE, stderr=None):
    """Start a command and hand it over as a `Process`; at the end none of its processes is left.

    Parameters
    ----------
    *command : words
    limit : float
        In start-ups; then it is killed, and whatever waits for it fails.
    env : dict of str, optional
        Goes into this process's environment.
    cwd : path
    stdout, stderr : int
        By default a pipe, which `Process.line` reads, and a file.
    """
    mark, before = uuid.uuid4().hex, _left_by_mpich()
    with tempfile.TemporaryFile("w+") as errors:
        with _default_signals():
            popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=errors if stderr is None else stderr,
                text=True,
                cwd=cwd,
                env=_environment(env or {}) | {MARK: mark},
                start_new_session=True,
            )
        process = Process(popen, errors, mark, limit * start_up())
        try:
            yield process
        finally:
            process.close()
            _sweep(before)


class Process:
    """A running process."""

    def __init__(self, popen, errors, mark, seconds):
        self._popen, self._errors, self._mark, self._seconds = popen, errors, mark, seconds
        self._shown, self._late = [], False
        self._timer = threading.Timer(seconds, self._too_late)
        self._timer.start()

    def line(self, pattern):
        """Wait for a line of output that matches; return the match."""
        while text := self._popen.stdout.readline():
            self._shown.append(text)
            if found := re.search(pattern, text):
                return found
        self._fail(f"it ended before a line {pattern!r}")

    def until(self, happened):
        """Wait until `happened()`; return what that is."""
        while not (what := happened()):
            if self._popen.poll() is not None:
                self._fail("it ended before what it was watched for")
            time.sleep(POLL)
        return what

    def send(self, kind):
        """Send it a signal."""
        self._popen.send_signal(kind)

    def wait(self, code=None):
        """Wait for its end and that of its children; assert its exit status, unless None."""
        if self._popen.stdout is not None:  # open as long as any of its processes lives
            self._shown.append(self._popen.stdout.read())
        found = self._popen.wait()
        while _alive(self._mark) and not self._late:
            time.sleep(POLL)
        if self._late or code not in (None, found):
            self._fail(f"exit status {found}, expected {'any' if code is None else code}")
        return Done(found, "".join(self._shown), self._error_text())

    def close(self):
        self._timer.cancel()
        self._end_all()
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _too_late(self):
        self._late = True
        self._end_all()

    def _end_all(self):
        if os.name == "posix":
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        else:
            self._popen.kill()
        for pid in _alive(self._mark):  # in a session of its own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _error_text(self):
        self._errors.seek(0)
        return self._errors.read()

    def _fail(self, what):
        if self._late:
            what = f"it or a child of it still ran after {self._seconds:.0f} s: {what}"
        shown = f"stdout:\n{''.join(self._shown)}\nstderr:\n{self._error_text()}"
        pytest.fail(f"{self._popen.args}\n{what}\n{shown}")


def _environment(more):
    """Return this process's environment, with npbn from here, and lines that show at once."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    mine = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"}
    return os.environ | mine | more


@contextmanager
def _default_signals():
    """Ignore no signal for a while: a new process inherits that, SIGINT's in a background job."""
    kinds = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGINT))
    ignored = [kind for kind in kinds if signal.getsignal(kind) is signal.SIG_IGN]
    for kind in ignored:
        signal.signal(kind, signal.SIG_DFL)
    try:
        yield
    finally:
        for kind in ignored:
            signal.signal(kind, signal.SIG_IGN)


def _alive(mark):
    """Return the ids of the processes with this mark, on Linux; a zombie has none."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _left_by_mpich():
    """Return the files of MPICH in shared memory and in the folder that it takes for its own."""
    return {*Path("/dev/shm").glob("mpich_shm_*"), *Path("/tmp").glob("hydra_hwloc_xmlfile_*")}


def _sweep(before):
    """Delete what a killed MPICH has left, 2 to 3 MB a run, but not what another run has in use."""
    if new := _left_by_mpich() - before:
        used = ""
        for path in (*Path("/proc").glob("[0-9]*/maps"), *Path("/proc").glob("[0-9]*/environ")):
            with suppress(OSError):
                used += path.read_text(errors="replace")
        for path in new:
            if str(path) not in used:
                path.unlink(missing_ok=True)
