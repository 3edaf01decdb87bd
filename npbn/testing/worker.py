"""The process that a target runs in; the check continues whatever the target does.

A target that is named (``"torch.nn:BatchNorm1d"``) is imported by a fresh interpreter, and so is
an object that such an interpreter finds again by its module and name. Other objects (classes of
a notebook or of a program, functions in functions) reach the worker by ``fork``. Where there is
no fork, on Windows, they cannot be checked: they have to be put into a module.

Requests are functions of this package with their arguments, pickled; a worker that has ended or
was late is replaced at the next request.
"""

import faulthandler
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, NamedTuple

import npbn
from npbn.errors import NpbnError
from npbn.testing import worker_process
from npbn.testing.worker_process import Described, Request, TargetError

LOADING = 120.0  # seconds; `import tensorflow` takes 20 on a machine with other load


class WorkerError(NpbnError, RuntimeError):
    """The target did not answer: it raised, ended its process, or did not return in time."""


class RaisedError(WorkerError):
    """The target raised."""


class LostError(WorkerError):
    """The process of the target is gone: it ended, crashed, or was late and has been killed."""


class LateError(LostError):
    """The target did not return in time."""


class Worker:
    """A process with a target, and the means to call functions on it.

    Parameters
    ----------
    target : object
        A name (:func:`npbn.testing.targets.load_target`), ``Command``, or what
        :func:`npbn.testing.targets.adapt` takes.
    convention : str or None
        Takes the place of the target's own.
    warm_up : float
        How many seconds the calls before the first may take, in which libraries compile; they
        are not judged.
    function : callable
        What will be called; its module is imported before any time counts.

    Attributes
    ----------
    described : Described
        Name, capabilities and convention of the target.
    """

    def __init__(
        self,
        target: object,
        convention: str | None = None,
        warm_up: float = 60.0,
        function: Callable[..., Any] = worker_process.warm_up,
    ):
        self.convention, self.warm_up, self.function = convention, warm_up, function
        self.start, self.target = _how_to_start(target)
        self.process: _Process | None = None
        try:
            self.described: Described = self._begin()
        except WorkerError as error:
            raise TargetError(f"cannot load {target}: it {error}") from error

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Return ``function(implementation, *arguments)``, called in the worker.

        Raises
        ------
        RaisedError, LostError, LateError
            Their messages say what the target did.
        ConformanceError
            Of the function.
        """
        if self.process is None:
            self._begin()
        return self._exchange(Request(function, arguments), seconds)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> Described:
        """Start a process, load the target and make its first calls."""
        self.process = self.start()
        try:
            described: Described = self._exchange((self.target, self.convention), LOADING)
            self._exchange(Request(worker_process.know, (self.function,)), LOADING)
            if self.warm_up:
                self._warm_up()
        except BaseException:
            self.close()
            raise
        return described

    def _warm_up(self) -> None:
        try:
            self._exchange(Request(worker_process.warm_up, ()), self.warm_up)
        except WorkerError:  # the behaviours will say what is wrong; the next worker is not warmed
            self.warm_up = 0.0
            if self.process is None:
                self._begin()

    def _exchange(self, message: object, seconds: float) -> Any:
        process = self.process
        assert process is not None  # `_begin` has started it
        process.requests.put(message)
        try:
            kind, value = process.answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise LateError(f"did not return within {seconds:g} seconds") from None
        except BaseException:  # an interrupt: the worker is in the middle of something
            self.close()
            raise
        if kind == "ended":
            self.process = None
            raise LostError(f"ended its process ({_how_it_ended(process.wait())})")
        if kind == "raised":
            raise RaisedError(value)
        if kind == "error":
            raise value
        return value


class _Process(NamedTuple):
    """A worker's process: what goes to it and comes from it, and how to end it."""

    requests: "queue.SimpleQueue[object]"
    answers: "queue.SimpleQueue[tuple[str, Any]]"
    wait: Callable[[], int]
    kill: Callable[[], None]


def _connected(
    to_worker: IO[bytes],
    from_worker: IO[bytes],
    wait: Callable[[], int],
    end: Callable[[], None],
) -> _Process:
    """Return a process whose pipes a thread of this one serves: nothing here waits for a pipe."""
    requests: queue.SimpleQueue[object] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def exchange() -> None:
        with to_worker, from_worker:
            while (message := requests.get()) is not None:
                try:
                    pickle.dump(message, to_worker)
                    to_worker.flush()
                    answers.put(pickle.load(from_worker))
                except Exception:  # EOFError, BrokenPipeError, or half an answer
                    end()
                    answers.put(("ended", None))
                    break
            with suppress(OSError):
                to_worker.close()

    def kill() -> None:
        end()
        requests.put(None)
        wait()

    threading.Thread(target=exchange, daemon=True).start()
    return _Process(requests, answers, wait, kill)


def _how_to_start(target: object) -> tuple[Callable[[], _Process], object]:
    """Return a function that starts a worker's process, and what to send it as the target."""
    if isinstance(target, (str, worker_process.Command)):
        return _spawned, target
    try:
        pickled = pickle.dumps(target)
    except Exception:
        pickled = b"__main__"
    if b"__main__" not in pickled and _finds_it(pickled):
        return _spawned, worker_process.Pickled(pickled)
    if not hasattr(os, "fork"):
        raise ValueError(
            f"{target!r} cannot reach the worker process, which is a fresh interpreter on this "
            "system: put it into a module and give its name, package.module:object"
        )
    return lambda: _forked(target), None


def _finds_it(pickled: bytes) -> bool:
    """Return whether a fresh interpreter with the same path can load a pickled object."""
    code = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickled, capture_output=True, env=_environment()
    )
    return done.returncode == 0


def _environment() -> dict[str, str]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return os.environ | {"PYTHONPATH": path, "NPBN_ENGINE": npbn.get_engine()}


def _spawned() -> _Process:
    """Start a fresh interpreter."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from npbn.testing.worker_process import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for this process; its children end with the worker
    )

    def end() -> None:
        _kill_group(process.pid)
        process.kill()

    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    return _connected(process.stdin, process.stdout, process.wait, end)


def _forked(target: object) -> _Process:
    """Fork a process that has the target already."""
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; they take no locks here
        pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()  # a crash here is a result, not a message for the terminal
            os.setsid()
            os.close(request_write)
            os.close(answer_read)
            worker_process.after_fork()
            worker_process.serve(
                os.fdopen(request_read, "rb"), os.fdopen(answer_write, "wb"), target
            )
        finally:
            os._exit(0)
    os.close(request_read)
    os.close(answer_write)
    status: list[int] = []
    lock = threading.Lock()

    def wait() -> int:
        with lock:
            if not status:
                status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return status[0]

    def end() -> None:
        if not status:
            _kill_group(pid)
            with suppress(ProcessLookupError):  # it has ended, and another thread has waited for it
                os.kill(pid, signal.SIGKILL)

    return _connected(os.fdopen(request_write, "wb"), os.fdopen(answer_read, "rb"), wait, end)


def _kill_group(pid: int) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    """Return what an exit status means, in words."""
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
